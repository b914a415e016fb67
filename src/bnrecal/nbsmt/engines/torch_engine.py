"""NB-SMT as one ordinary convolution of more channels, in plain torch: for any device, every switch, every policy."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from bnrecal.nbsmt.decompose.expansion import expand_activations, expand_weights, plan_expansion
from bnrecal.nbsmt.decompose.operands import weight_patterns
from bnrecal.nbsmt.engines.cpu.kernels import table_lookup
from bnrecal.nbsmt.engines.cpu.table_lookup import Lookup
from bnrecal.nbsmt.engines.engine import ConvLayer, Engine, levels_of
from bnrecal.nbsmt.engines.integer_conv import FloatConv, images_at_a_time
from bnrecal.nbsmt.policies.custom import is_custom, policy_factors
from bnrecal.nbsmt.policies.factorize import Factors
from bnrecal.nbsmt.spec import SmtSpec

TF32_EXACT = 2**11  # integers up to here survive the rounding of operands on a GPU


class Channels(Protocol):
    """The channels that a layer's become.

    Attributes:
        largest: bound on the magnitude of the activations.
        bytes_each: of an operand.
        layout: for reports: channels per channel.
    """

    largest: int
    bytes_each: int
    layout: str

    def compile(self, *, long_copies: bool) -> None:
        """Let a processor's kernel expand, if there is one.

        Args:
            long_copies: lay out what it gives channel by channel, so that a range of channels is a few long copies.
        """

    def expand(self, x: Tensor, x_scale: float, signed: bool) -> Tensor:
        """Return the activations (N, groups * width, H, W) of float32 ones (N, C, H, W) or of their levels."""


class TorchEngine(Engine):
    """One layer with fixed weights."""

    names = ("float32", "float64")

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self.channels, weight = _expand(layer)
        fits = _fits_float32(weight, self.channels, layer.device)
        self._name = layer.engine_name or ("float32" if fits else "float64")
        dtype = torch.float32 if self._name == "float32" else torch.float64
        self._conv = FloatConv(weight, layer.geometry, self.channels.largest, dtype, layer.device)
        self._width = weight.shape[1] * layer.geometry.groups
        if dtype == torch.float32 and layer.device.type == "cpu":
            self.channels.compile(long_copies=len(self._conv.chunks) > 1)

    @classmethod
    def can_run(cls, layer: ConvLayer) -> str:
        """Return "", or why sums do not fit float32 where that is asked for."""
        if layer.engine_name == "float32":
            channels, weight = _expand(layer)
            if not FloatConv.fits(weight, channels.largest):
                return f"float32 cannot hold the sums of a kernel of {layer.kernel}"
        return ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def layout(self) -> str:
        return self.channels.layout

    def accumulate(self, x: Tensor) -> Tensor:
        return torch.cat([self._conv.accumulate(self.channels.expand(part, 1.0, False)) for part in self._pieces(x)])

    def convolve(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, *, signed: bool = False
    ) -> Tensor:
        shape = self.layer.output_shape(x)
        y = torch.empty(shape, memory_format=torch.channels_last, device=self.layer.device)
        first = 0
        for part in self._pieces(x):
            selected = self.channels.expand(part, x_scale, signed)
            y[first : first + len(part)].copy_(self._conv.convolve(selected, scale, bias))
            first += len(part)
        return y

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        per_image = self.channels.bytes_each * self._width * x.shape[2] * x.shape[3]
        return torch.split(x, images_at_a_time(per_image, self.layer.kernel, self.layer.device))


def _expand(layer: ConvLayer) -> tuple[Channels, Tensor]:
    """Return the channels, and the weights that multiply them: integers (O, width, kh, kw) for one group's channels."""
    if is_custom(layer.spec.policy):
        return _expand_by_table(layer)
    channels = OperandChannels(layer)
    return channels, expand_weights(layer.weight, channels.expansion, layer.spec)


def _fits_float32(weight: Tensor, channels: Channels, device: torch.device) -> bool:
    if device.type != "cpu" and max(channels.largest, int(weight.abs().max())) > TF32_EXACT:
        return False
    return FloatConv.fits(weight, channels.largest)


class OperandChannels:
    """A built-in policy: for every operand that weights multiply, the channels with such weights."""

    bytes_each = 1

    def __init__(self, layer: ConvLayer) -> None:
        self.spec = layer.spec
        self.groups = layer.geometry.groups
        self.expansion = plan_expansion(layer.weight, layer.spec, layer.device)
        self.largest = 255 if layer.spec.saturate else 256
        self.layout = f"{self.expansion.width / self.expansion.channels:.1f} dense"

    def compile(self, *, long_copies: bool) -> None:
        """Do nothing: there is no kernel for it."""

    def expand(self, x: Tensor, x_scale: float, signed: bool) -> Tensor:
        """Return int16 (N, groups * width, H, W)."""
        return expand_activations(levels_of(x, x_scale, signed), self.expansion, self.spec, self.groups)


class TableChannels:
    """A policy that is given as tables.

    Every term of the policy is a function F of the activation and of how many threads are active, times a function G
    of the weight. For every pattern of non-zero partner weights (`operands`) and every term, one group of input
    channels carries F, given how many of those partners' activations are non-zero; the weights of that pattern
    multiply it as G.
    """

    bytes_each = 2

    def __init__(self, layer: ConvLayer, operands: "list[_Selected]") -> None:
        self.spec = layer.spec
        self.groups = layer.geometry.groups
        self.channels = layer.weight.shape[1]
        self.operands = operands
        self.width = sum(len(operand.chosen) for operand in operands)
        self.largest = max(1, *(int(operand.table.abs().max()) for operand in operands))
        self.layout = f"{self.width / self.channels:.1f} by table"
        self._lookup: Lookup | None = None
        self._long_copies = False

    def compile(self, *, long_copies: bool) -> None:
        """Let a processor's kernel look up in the tables, if there is one."""
        if table_lookup.kernel() is not None:
            selected = [(operand.pattern, operand.table, operand.chosen) for operand in self.operands]
            self._lookup = Lookup(selected, self.spec, self.channels, self.groups)
            self._long_copies = long_copies

    def expand(self, x: Tensor, x_scale: float, signed: bool) -> Tensor:
        """Return (N, groups * width, H, W): int16, or float32 from the kernel."""
        if self._lookup is not None:
            looked_up = self._lookup(x, x_scale)
            return looked_up.contiguous() if self._long_copies else looked_up
        levels = levels_of(x, x_scale, signed)
        images, _, height, width = levels.shape
        a = levels.to(torch.int32).reshape(images, self.groups, self.channels, height, width)
        part = self.channels // self.spec.threads
        nonzero = (a != 0).to(torch.int32)
        active = [torch.roll(nonzero, -r * part, 2) for r in range(1, self.spec.threads)]
        selected = torch.cat([operand.select(a, active) for operand in self.operands], 2)
        return selected.reshape(images, self.groups * self.width, height, width)


def _expand_by_table(layer: ConvLayer) -> tuple[TableChannels, Tensor]:
    weight = layer.weight.cpu()
    operands = []
    parts = []
    factors = policy_factors(layer.spec.policy, layer.spec.threads)
    for pattern, table, part in _weights_by_table(weight, layer.spec, factors):
        chosen = part.ne(0).flatten(2).any(2).any(0).nonzero()[:, 0]
        if len(chosen):
            operands.append(_Selected(pattern, table, chosen, layer.device))
            parts.append(part[:, chosen])
    if not operands:  # every weight is zero
        nothing = torch.zeros(1, 256, dtype=torch.int16)
        operands.append(_Selected(0, nothing, torch.tensor([0]), layer.device))
        parts.append(torch.zeros_like(weight[:, :1], dtype=torch.int16))
    return TableChannels(layer, operands), torch.cat(parts, 1)


class _Selected:
    """Channels that carry one table's values of an activation.

    Attributes:
        pattern: the partners that count, bit r - 1 for partner r.
        table: int16 (rows, 256): the operand of an activation while as many partners as the row says are non-zero.
        chosen: the channels, int64.
    """

    def __init__(self, pattern: int, table: Tensor, chosen: Tensor, device: torch.device) -> None:
        self.pattern = pattern
        self.table = table.to(device)
        self.chosen = chosen.to(device)

    def select(self, a: Tensor, active: list[Tensor]) -> Tensor:
        """Return int16 (N, G, chosen, H, W) of levels (N, G, C, H, W), int32, and of which partners are non-zero."""
        places = a.index_select(2, self.chosen)
        for bit, partner in enumerate(active):
            if self.pattern >> bit & 1:
                places = places + 256 * partner.index_select(2, self.chosen)
        return self.table.flatten()[places]


def _weights_by_table(weight: Tensor, spec: SmtSpec, factors: Factors) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield a pattern, the table of its operands, and the weights that multiply them, int16 shaped as `weight`."""
    of_activation = torch.from_numpy(factors.of_activation).to(torch.int16)  # (T, 256, terms)
    of_weight = torch.from_numpy(factors.of_weight).to(torch.int16)  # (terms, 256)
    patterns = weight_patterns(weight, spec)
    for pattern in sorted(set(patterns.flatten().tolist())):
        # without sparsity all threads are active, whatever they hold
        rows = of_activation[: pattern.bit_count() + 1] if spec.sparsity else of_activation[-1:]
        for term in range(factors.terms):
            part = of_weight[term][weight.long() + 128] * (patterns == pattern)
            yield (pattern if spec.sparsity else 0), rows[:, :, term], part
