"""Regather BatchNorm statistics in the network as it now computes (paper section 2).

Only `running_mean`, `running_var` and `num_batches_tracked` change; gamma, beta and every other tensor do not.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnrecal.errors import BnrecalError
from bnrecal.options import RECALIBRATION_METHODS


def batchnorms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


def statistics(network: nn.Module) -> dict[str, Tensor]:
    """A copy of every BatchNorm buffer, by its state_dict name."""
    return {
        f"{name}.{key}".lstrip("."): buffer.detach().clone()
        for name, layer in batchnorms(network).items()
        for key, buffer in layer.named_buffers(recurse=False)
    }


@torch.no_grad()
def load_statistics(network: nn.Module, values: dict[str, Tensor]) -> None:
    """Put a copy made by `statistics` back."""
    buffers = dict(network.named_buffers(remove_duplicate=False))
    for name, value in values.items():
        buffers[name].copy_(value)


@torch.no_grad()
def recalibrate_(network: nn.Module, batches: Iterable[Tensor], *, method: str = "ema", momentum: float = 0.1) -> int:
    """Regather the running mean and variance of every BatchNorm layer, in place.

    Estimators, over the batches b = 1..B (each layer normalises with its batch's own statistics meanwhile):
        ema: running = (1 - momentum) * running + momentum * batch, from the trained statistics; B steps keep
            (1 - momentum)^B of them (18.5 % after 16 steps of 0.1). The authors' choice.
        cumulative: the mean over batches of each batch's statistics, the trained ones forgotten.
        pooled: the exact mean and unbiased variance of all values of all batches together, in float64.

    Args:
        network: on the batches' device; BatchNorm layers run in training mode, everything else in eval mode.
        batches: float32 (N, 3, H, W).

    Returns:
        The number of images seen.

    Raises:
        BnrecalError: without a BatchNorm layer that keeps statistics, or without images. On any exception the
            statistics are as they were before.
    """
    if method not in RECALIBRATION_METHODS:
        raise BnrecalError(f"recalibration.method={method}: choose one of {', '.join(RECALIBRATION_METHODS)}")
    layers = batchnorms(network)
    if not layers:
        raise BnrecalError("the network has no BatchNorm layer with running statistics: nothing to recalibrate")
    before = statistics(network)
    images = 0
    try:
        with _only_batchnorm_training(network), _estimator(list(layers.values()), method, momentum):
            for batch in batches:
                network(batch)
                images += len(batch)
            if images == 0:
                raise BnrecalError("recalibration got no images: recalibration.images must be at least 2")
    except BaseException:  # also Ctrl-C: half-gathered statistics must not look like a result
        load_statistics(network, before)
        raise
    return images


@contextmanager
def _only_batchnorm_training(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for layer in batchnorms(network).values():
            layer.train()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _estimator(layers: list[_BatchNorm], method: str, momentum: float) -> Iterator[None]:
    """Set the layers up to gather by `method`, finish the statistics at the end, give their momenta back."""
    momenta = [layer.momentum for layer in layers]
    pools: list[_Pool] = []
    trained: list[tuple[_BatchNorm, dict[str, Tensor]]] = []
    try:
        for layer in layers:
            if method == "cumulative":
                trained.append((layer, {key: b.clone() for key, b in layer.named_buffers(recurse=False)}))
                layer.reset_running_stats()
            if method == "pooled":
                pools.append(_Pool(layer))
            # None is PyTorch's cumulative average; 0 leaves the buffers to the pool
            layer.momentum = {"ema": momentum, "cumulative": None, "pooled": 0.0}[method]
        yield
        for pool in pools:
            pool.finish()
        for layer, buffers in trained:
            if layer.num_batches_tracked == 0:  # never reached by the forward (an auxiliary head): as it was
                layer.load_state_dict(buffers, strict=False)
    finally:
        for pool in pools:
            pool.handle.remove()
        for layer, own in zip(layers, momenta, strict=True):
            layer.momentum = own


class _Pool:
    """Mean and sum of squared deviations of one layer's input, merged batch by batch (Chan et al., 1979)."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.handle = layer.register_forward_pre_hook(self._add)

    def _add(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].detach().transpose(0, 1).flatten(1).double()  # (C, values)
        count, mean = x.shape[1], x.mean(1)
        squares = (x - mean[:, None]).square().sum(1)
        shift = mean - self.mean
        total = self.count + count
        self.squares = self.squares + squares + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def finish(self) -> None:
        if self.count < 2:
            return  # a layer the forward never reached keeps its statistics
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.squares, Tensor)
        assert self.layer.running_mean is not None
        assert self.layer.running_var is not None
        self.layer.running_mean.copy_(self.mean)
        self.layer.running_var.copy_(self.squares / (self.count - 1))
