"""Evaluation in fewer passes over memory: a convolution's output is written once BatchNorm, addition and ReLU are done.

The network is traced, and its graph shows where nobody else reads what lies between. The logits are those of the
unfused network to the last bit, BatchNorm as `eval_norm` has it. Nothing of the network changes; recalibration and
calibration never see a fused one.
"""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnrecal.nbsmt.engines.apply_end import (
    Ending,
    alpha_beta,
    apply_end_,
    apply_pooled_end,
    can_end,
    ending,
    ending_trouble,
)
from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels, MaxPool
from bnrecal.nbsmt.geometry import as_pair
from bnrecal.quantization.chains import Chain, Untraceable, find_chains, trace
from bnrecal.quantization.eval_norm import evaluation_norm
from bnrecal.quantization.intercept import ConvInterceptor
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

log = logging.getLogger("bnrecal")


class FusedNetwork:
    """A network in evaluation: fused from its third batch on, if on the second both forms gave the same logits.

    They are compared because a graph shows what a forward did once, and not all of that: a tensor that is changed in
    place under another name, say. An evaluation of one batch has nothing to gain and does not pay for it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.fused: nn.Module | None = None
        self.norm: AbstractContextManager[object] | None = None  # of the device of the first batch, and of all others
        self.batches = 0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        """Return the network's logits."""
        self.batches += 1
        worth = ending(images.device)
        self.norm = self.norm or evaluation_norm(images.device)
        with self.norm:
            if self.fused is not None:
                return self.fused(images)
            logits = self.network(images)
            if self.batches == 2 and worth is not Ending.NONE:
                self.fused = self._compared(images, logits)
        if worth is Ending.OWN:
            _compare_with_torchs(self.network, images, logits)
        return logits

    def _compared(self, images: Tensor, logits: Any) -> nn.Module | None:
        """Return the fused network if it gives the same logits."""
        fused = fused_or_none(self.network)
        if fused is None or not isinstance(logits, Tensor):
            return None
        with torch.random.fork_rng(devices=[]):
            fused_logits = fused(images)
        if torch.equal(fused_logits, logits):
            return fused
        log.warning("evaluation goes on unfused: a graph of the network gives other logits than its own forward")
        return None


_compared_devices: set[torch.device] = set()


def _compare_with_torchs(network: nn.Module, images: Tensor, logits: Any) -> None:
    """Log how far logits are from those by torch's own BatchNorm, once on each device in a process."""
    if images.device in _compared_devices or not isinstance(logits, Tensor):
        return
    _compared_devices.add(images.device)
    with torch.random.fork_rng(devices=[]):
        difference = float((network(images) - logits).abs().max())
    log.warning(
        "BatchNorm in evaluation is one multiply-add on %s: a logit of the first batch is at most %.3g from what "
        "PyTorch's own gives, of logits up to %.3g",
        images.device,
        difference,
        float(logits.abs().max()),
    )


@dataclass(frozen=True)
class Fusion:
    """A network's BatchNorm layers, how many of them are fused in evaluation, and why none is, for provenance."""

    batchnorms: int
    fused: int
    why_not: str


def describe_fusion(network: nn.Module, device: torch.device) -> Fusion:
    """Return which layers of a network in eval mode `FusedNetwork` fuses on a device."""
    batchnorms = sum(isinstance(module, _BatchNorm) for module in network.modules())
    if ending(device) is Ending.NONE:
        return Fusion(batchnorms, 0, ending_trouble(device))
    try:
        chains = find_chains(trace(network), dict(network.named_modules()))
    except Untraceable as reason:
        return Fusion(batchnorms, 0, str(reason))
    return Fusion(batchnorms, len({chain.norm for chain in chains}), "")


def fused_or_none(network: nn.Module) -> nn.Module | None:
    """Return `fuse(network)`, None where it cannot be traced or nothing is gained."""
    try:
        return fuse(network)
    except Untraceable as reason:
        log.debug("evaluation is not fused: %s", reason)
        return None


def fuse(network: nn.Module) -> fx.GraphModule | None:
    """Return a network that computes as this one does, in fewer passes; None if it has no BatchNorm to fuse.

    Args:
        network: in eval mode, on a device where `ending` is not NONE. The two share all modules; BatchNorm's values
            are read now.
    """
    graph = trace(network)
    chains = find_chains(graph, dict(network.named_modules()))
    if not chains:
        return None
    ended = {f"ended_{number}": chain for number, chain in enumerate(chains)}
    chained = {node for chain in chains for node in chain.nodes}
    read_once = {chain.source for chain in chains if len(chain.source.users) == 1}
    # Chains begin with what they read or add it, and never write to it.
    read_by_chains = {chain.source for chain in chains if chained.issuperset(chain.source.users)}
    for name, chain in reversed(ended.items()):  # so that no chain reads a node that is gone already
        _replace(graph, chain, name)
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    parts: dict[str, Any] = {target: attrgetter(target)(network) for target in targets - ended.keys()}
    endings: dict[fx.Node, Ended] = {}
    for name, chain in ended.items():
        source = endings.get(chain.source)
        endings[chain.nodes[-1]] = parts[name] = Ended(chain, source)
        if chain.source in read_once:
            parts[name].take_levels(alone=True)
        elif chain.source in read_by_chains:
            parts[name].take_levels(alone=False)
    return fx.GraphModule(parts, graph)


def _replace(graph: fx.Graph, chain: Chain, name: str) -> None:
    """Put one call in the place of a chain's nodes."""
    last = chain.nodes[-1]
    sources = (chain.source,) if chain.residual is None else (chain.source, chain.residual)
    with graph.inserting_after(last):
        call = graph.call_module(name, sources)
    last.replace_all_uses_with(call)
    for node in reversed(chain.nodes):
        graph.erase_node(node)


@dataclass(slots=True)
class _Result:
    """The last result of a chain, as others need to know it.

    Attributes:
        finite: whether it is known to hold no NaN and no infinity, as levels never do.
        made: levels beside it, until all chains that take them have done so.
        taken: how many have.
    """

    finite: bool = False
    made: Tensor | None = None
    taken: int = 0


class Ended(nn.Module):
    """A chain in as few passes as its input allows; where it allows none, layer by layer, with the same result.

    Args:
        source: the chain whose result this one reads, if it reads one.
    """

    def __init__(self, chain: Chain, source: "Ended | None") -> None:
        super().__init__()
        self.result = _Result()  # apart, because a module is slow to set an attribute
        self._takers = 0
        self._takes_made = False
        self._sources: tuple[Ended, ...] = () if source is None else (source,)  # in a tuple it is no module of this one
        self.conv = chain.conv
        self.norm = chain.norm
        norm = chain.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        values = alpha_beta(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
        self.end = ConvEnd(*values, chain.lowest, chain.highest)
        self.pool = chain.pool

    def take_levels(self, *, alone: bool) -> None:
        """Let the source chain, if there is one, make the levels that the convolution takes.

        Args:
            alone: whether nobody else reads the source's result: it is then nothing but levels.
        """
        levels = _levels_taken(self.conv)
        for source in self._sources:
            if alone:
                source.end.levels = levels
            elif levels is not None and source.end.beside in (None, levels):
                source.end.beside = levels
                source._takers += 1
                self._takes_made = True

    def _hand_over(self) -> Tensor | None:
        """Return the levels beside the last result, and keep them no longer than they are needed."""
        made = self.result.made
        self.result.taken += 1
        if self.result.taken == self._takers:
            self.result.made = None
        return made

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return what the chain's last layer returns, or what the next convolution's quantizer makes of it.

        Args:
            x: float32, or the levels that the chain before has made of it.
        """
        end = self.end.adding(residual)
        if self._takes_made:
            for source in self._sources:
                made = source._hand_over()
                x = x if made is None else made
        y = self._run(x, end)
        result = self.result
        result.finite = bool(end.finite) or not y.is_floating_point()
        result.made = end.made
        result.taken = 0
        return y

    def _run(self, x: Tensor, end: ConvEnd) -> Tensor:
        residual = end.residual
        if self.pool is not None:
            return self._run_pooled(x, end, self.pool)
        conv = self.conv
        if conv is None:
            return apply_end_(x, end, torch.empty_like(x)) if _fits(x, residual) else self._unfused(x, residual)
        threaded = _threaded(conv)
        if threaded is None:
            x = conv(x)
        else:
            checked = bool(self._sources) and self._sources[0].result.finite
            if residual is None or _fits_output(conv, threaded, x, residual):
                return threaded.run_to_end(x, end, checked=checked)
            x = threaded.run_to_end(x, None, checked=checked)
        return apply_end_(x, end) if _fits(x, residual) else self._unfused(x, residual)

    def _run_pooled(self, x: Tensor, end: ConvEnd, pool: nn.MaxPool2d) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        if _fits(x, None):
            pooled = apply_pooled_end(x, end, _windows(pool))
            if pooled is not None:
                return pooled
            plain = ConvEnd(end.alpha, end.beta, end.lowest, end.highest, kept=end.kept)
            ended = apply_end_(x, plain, torch.empty_like(x) if self.conv is None else None)
        else:
            ended = self._unfused(x, None)
        apart: Tensor = pool(ended)
        return apart

    def _unfused(self, x: Tensor, residual: Tensor | None) -> Tensor:
        x = self.norm(x)
        if residual is not None:
            x = x + residual
        if self.end.lowest < 0:
            return x
        return F.relu6(x) if self.end.highest == 6 else F.relu(x)


def _fits(x: Tensor, residual: object) -> bool:
    """Return whether one pass can take these two."""
    if not can_end(x):
        return False
    return residual is None or (isinstance(residual, Tensor) and can_end(residual) and residual.shape == x.shape)


def _windows(pool: nn.MaxPool2d) -> MaxPool:
    stride = as_pair("stride", pool.stride, 1)
    return MaxPool(as_pair("kernel", pool.kernel_size, 1), stride, as_pair("padding", pool.padding, 0))


def _levels_taken(conv: nn.Conv2d | None) -> Levels | None:
    """Return the quantizer of a convolution that can be given levels; None where it wants float32."""
    threaded = None if conv is None else _threaded(conv)
    if conv is None or threaded is None or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    layer = threaded.handler
    assert isinstance(layer, NBSMTConv2d)
    return Levels(layer.input_scale, layer.signed) if layer.permutation is None else None


def _threaded(conv: nn.Conv2d) -> ConvInterceptor | None:
    """Return what stands in for a quantized convolution; None for one in float32."""
    forward = vars(conv).get("forward")
    return forward if isinstance(forward, ConvInterceptor) and isinstance(forward.handler, NBSMTConv2d) else None


def _fits_output(conv: nn.Conv2d, threaded: ConvInterceptor, x: Tensor, residual: Tensor) -> bool:
    """Return whether a residual has the type and shape of what a convolution makes of x."""
    if isinstance(conv.padding, str) or not isinstance(residual, Tensor) or not can_end(residual):
        return False
    kernel = as_pair("kernel", conv.kernel_size, 1)
    size = threaded.plain_geometry().output_size((x.shape[2], x.shape[3]), kernel)
    return residual.shape == (x.shape[0], conv.out_channels, *size)
