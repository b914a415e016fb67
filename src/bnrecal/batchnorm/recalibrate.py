"""Re-estimate BatchNorm statistics in the network as it now computes (paper section 2).

Only `running_mean`, `running_var` and `num_batches_tracked` change; gamma, beta and every other tensor do not.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnrecal.batchnorm.moments import Moments, batch_moments
from bnrecal.errors import BnrecalError, some_of
from bnrecal.files import warn_once
from bnrecal.nbsmt.engines.cpu.channel_sums import Doubles
from bnrecal.nbsmt.finite import check_images
from bnrecal.nbsmt.float_conv import forward
from bnrecal.options import RECALIBRATION_METHODS

RUNNING, FROZEN, BY_BATCH = "running", "frozen", "batch"  # see `normalization`
MOST_NAMED = 5  # layers in a warning


def normalization(layer: _BatchNorm) -> str:
    """Return the statistics that a BatchNorm layer normalises with in eval mode.

    Returns:
        RUNNING: its running statistics, which recalibration re-estimates. FROZEN: those that its buffers hold, which
        recalibration leaves alone, since `track_running_stats` was switched off. BY_BATCH: those of each batch, since
        it holds none; what it gives for an image depends on the others.
    """
    if layer.running_mean is None or layer.running_var is None:
        return BY_BATCH
    return RUNNING if layer.track_running_stats else FROZEN


def warn_of_others(network: nn.Module) -> None:
    """Warn, once in a process, of BatchNorm layers that recalibration does not reach, by name."""
    layers = {name or "of the network": m for name, m in network.named_modules() if isinstance(m, _BatchNorm)}
    frozen = [name for name, layer in layers.items() if normalization(layer) == FROZEN]
    by_batch = [name for name, layer in layers.items() if normalization(layer) == BY_BATCH]
    if frozen:
        warn_once(
            f"recalibration leaves BatchNorm {some_of(frozen, MOST_NAMED)} alone, which keep the statistics they hold: "
            "set track_running_stats=True to re-estimate them"
        )
    if by_batch:
        warn_once(
            f"BatchNorm {some_of(by_batch, MOST_NAMED)} hold no running statistics and normalise with those of each "
            "batch: accuracy depends on the batch size, and recalibration has nothing to re-estimate"
        )


def batchnorms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and normalization(module) == RUNNING
    }


def statistics(network: nn.Module) -> dict[str, Tensor]:
    """A copy of every BatchNorm buffer, by its state_dict name."""
    return {
        f"{name}.{key}".removeprefix("."): buffer.detach().clone()
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
    """Re-estimate the running mean and variance of every BatchNorm layer, in place.

    Estimators, over the batches b = 1..B (each layer normalises with its batch's own statistics meanwhile):
        ema: running = (1 - momentum) * running + momentum * batch, from the trained statistics; B steps keep
            (1 - momentum)^B of them (18.5 % after 16 steps of 0.1). The authors' choice.
        cumulative: the mean over batches of each batch's statistics, the trained ones forgotten.
        pooled: the mean and unbiased variance of all values of all batches together.

    As in PyTorch's training mode a batch is normalised with its biased variance, and its unbiased one enters the
    estimate. All sums are float64 (`bnrecal.batchnorm.moments`), rounded to the buffers' float32 once, at the end.

    Args:
        network: on the batches' device; runs in eval mode, BatchNorm layers with each batch's statistics in the place
            of the running ones.
        batches: float32 (N, 3, H, W).

    Returns:
        The number of images seen.

    Raises:
        BnrecalError: without a BatchNorm layer that keeps statistics, without images, for a batch with NaN or infinity
            in its images or in what a layer gets of it, or for one that brings a layer a single value per channel. On
            any exception the statistics are as they were before.
    """
    if method not in ESTIMATORS:
        raise BnrecalError(f"recalibration.method={method}: choose one of {', '.join(ESTIMATORS)}")
    warn_of_others(network)
    layers = normalizing_layers(network)
    before = statistics(network)
    estimates = {name: ESTIMATORS[method](*_running(layer), momentum) for name, layer in layers.items()}
    images = 0
    number = 0

    def note(name: str, batch: Moments) -> None:
        if not batch.finite:
            raise BnrecalError(
                f"recalibration batch {number} brings BatchNorm layer {name or 'of the network'} NaN, infinity or "
                "values beyond float32, made inside the network: check its weights, or leave these images out"
            )
        estimates[name].add(batch)

    try:
        with eval_mode(network), batch_statistics(layers, note):
            for number, batch in enumerate(batches, start=1):
                check_images(batch, f"recalibration batch {number}")
                forward(network, batch)
                images += len(batch)
        if images == 0:
            raise BnrecalError("recalibration got no images: recalibration.images must be at least 2")
        load_statistics(network, before)  # also of layers that the forward never reached
        for name, layer in layers.items():
            _finish(layer, estimates[name])
    except BaseException:  # also Ctrl-C: half-gathered statistics must not look like a result
        load_statistics(network, before)
        raise
    return images


def normalizing_layers(network: nn.Module) -> dict[str, _BatchNorm]:
    """`batchnorms`, at least one."""
    layers = batchnorms(network)
    if not layers:
        raise BnrecalError("the network has no BatchNorm layer with running statistics: nothing to recalibrate")
    return layers


@contextmanager
def batch_statistics(
    layers: Mapping[str, _BatchNorm], note: Callable[[str, Moments], None] = lambda _, __: None
) -> Iterator[None]:
    """Let every layer, in eval mode, normalise with the statistics of the batch itself; its buffers hold them after.

    Args:
        note: called with the name of a layer and what its input was, before it normalises.
    """

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        # whatever the layer's own class does besides, it asks for its running statistics
        def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
            x = _channels_last(args[0] if args else kwargs["input"])
            batch = batch_moments(x)
            note(name, batch)
            _set_running(layers[name], batch.mean, batch.variance)
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "input": x})

        return before

    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def eval_mode(*networks: nn.Module) -> Iterator[None]:
    """Every module of the networks in eval mode for the length of a block, and then as it was."""
    modes = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:  # an attribute of a module is read ten times as quickly as it is set
                module.training = training


def _running(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    mean = layer.running_mean
    variance = layer.running_var
    assert mean is not None
    assert variance is not None
    return mean, variance


def _set_running(layer: _BatchNorm, mean: Doubles, variance: Doubles) -> None:
    """Write statistics, rounded to the buffers' type."""
    running_mean, running_var = _running(layer)
    running_mean.copy_(torch.from_numpy(mean))
    running_var.copy_(torch.from_numpy(variance))


def _channels_last(x: Tensor) -> Tensor:
    """Return feature maps on the CPU with the channels last in memory, as the sums and what follows are quickest."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 and x.device.type == "cpu" else x


def _finish(layer: _BatchNorm, estimate: "Estimate") -> None:
    if estimate.batches == 0:
        return  # never reached by the forward (an auxiliary head): as it was
    _set_running(layer, estimate.mean, estimate.variance)
    if layer.num_batches_tracked is not None:
        if estimate.forgets:
            layer.num_batches_tracked.zero_()
        layer.num_batches_tracked += estimate.batches


class Estimate(ABC):
    """The running statistics of one layer, float64 (C,), updated batch by batch.

    Args:
        mean, variance: the trained ones.
        momentum: the share of a batch, for the estimator that has one.
    """

    forgets = True  # the trained statistics have no part in it, so that batches are counted from 0

    def __init__(self, mean: Tensor, variance: Tensor, momentum: float) -> None:
        self.mean: Doubles = mean.double().cpu().numpy().copy()
        self.variance: Doubles = variance.double().cpu().numpy().copy()
        self.momentum = momentum
        self.batches = 0

    def add(self, batch: Moments) -> None:
        """Take one batch in."""
        if batch.count < 2:
            raise BnrecalError("a batch brought a BatchNorm layer one value per channel: use larger batches")
        self.batches += 1
        self._update(batch)

    @abstractmethod
    def _update(self, batch: Moments) -> None: ...

    def _move(self, batch: Moments, share: float) -> None:
        self.mean = (1 - share) * self.mean + share * batch.mean
        self.variance = (1 - share) * self.variance + share * batch.unbiased_variance


class MovingAverage(Estimate):
    """Exponential, from the trained statistics."""

    forgets = False

    def _update(self, batch: Moments) -> None:
        self._move(batch, self.momentum)


class Cumulative(Estimate):
    """The mean over batches."""

    def _update(self, batch: Moments) -> None:
        self._move(batch, 1 / self.batches)


class Pooled(Estimate):
    """Mean and variance of all values together, merged batch by batch (Chan et al., 1979)."""

    def __init__(self, mean: Tensor, variance: Tensor, momentum: float) -> None:
        super().__init__(mean, variance, momentum)
        self.count = 0
        self.squares = np.zeros_like(self.mean)

    def _update(self, batch: Moments) -> None:
        if self.count == 0:
            self.mean = batch.mean
        total = self.count + batch.count
        shift = batch.mean - self.mean
        self.squares = self.squares + batch.squares + shift * shift * (self.count * batch.count / total)
        self.mean = self.mean + shift * (batch.count / total)
        self.count = total
        self.variance = self.squares / (total - 1)


ESTIMATORS: dict[str, type[Estimate]] = {"ema": MovingAverage, "cumulative": Cumulative, "pooled": Pooled}
assert tuple(ESTIMATORS) == RECALIBRATION_METHODS
