"""A convolution under a policy that is given as tables: one ordinary convolution of more channels.

Every term of the policy is a function F of the activation and of how many threads are active, times a function G of the
weight. For every pattern of non-zero partner weights (`operands`) and every term, one group of input channels carries
F, given how many of those partners' activations are non-zero; the weights of that pattern meet it as G.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.decompose.operands import weight_patterns
from bnrecal.nbsmt.engines.cpu.kernels import table_lookup
from bnrecal.nbsmt.engines.cpu.table_lookup import Lookup
from bnrecal.nbsmt.engines.integer_conv import FloatConv, images_at_a_time
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.policies.factorize import Factors
from bnrecal.nbsmt.spec import SmtSpec

TF32_EXACT = 2**11  # integers up to here survive the rounding of operands on a GPU


class _Selected:
    """What is sent for the channels whose weights meet it.

    Attributes:
        pattern: the partners that count, bit r - 1 for partner r.
        table: int16 (rows, 256): what is sent for an activation while as many partners as the row says are non-zero.
        chosen: the channels, int64.
    """

    def __init__(self, pattern: int, table: Tensor, chosen: Tensor, device: torch.device) -> None:
        self.pattern, self.table, self.chosen = pattern, table.to(device), chosen.to(device)

    def send(self, a: Tensor, active: list[Tensor]) -> Tensor:
        """int16 (N, G, chosen, H, W) of levels (N, G, C, H, W), int32, and of which partners are non-zero."""
        places = a.index_select(2, self.chosen)
        for bit, partner in enumerate(active):
            if self.pattern >> bit & 1:
                places = places + 256 * partner.index_select(2, self.chosen)
        return self.table.flatten()[places]


class TableConv:
    """One layer with fixed weights.

    Attributes:
        backend: what does the sums: "float32" or "float64".
    """

    def __init__(
        self,
        weight: Tensor,
        spec: SmtSpec,
        factors: Factors,
        geometry: Geometry,
        backend: str | None,
        device: torch.device,
    ) -> None:
        """Of int8 weights (O, C / groups, kh, kw), C / groups a multiple of the threads."""
        self.spec, self.geometry, self.device = spec, geometry, device
        self.channels, self.kernel = weight.shape[1], (weight.shape[2], weight.shape[3])
        self.operands: list[_Selected] = []
        parts = [weight.new_zeros((len(weight), 0, *self.kernel), dtype=torch.int16).cpu()]
        for pattern, table, met in _met(weight.cpu(), spec, factors):
            chosen = met.ne(0).flatten(2).any(2).any(0).nonzero()[:, 0]
            if len(chosen):
                self.operands.append(_Selected(pattern, table, chosen, device))
                parts.append(met[:, chosen])
        if not self.operands:  # every weight is zero
            self.operands.append(_Selected(0, torch.zeros(1, 256, dtype=torch.int16), torch.tensor([0]), device))
            parts.append(torch.zeros_like(weight[:, :1], dtype=torch.int16).cpu())
        expanded, largest = torch.cat(parts, 1), max(1, *(int(o.table.abs().max()) for o in self.operands))
        self.width = expanded.shape[1]
        small = max(largest, int(expanded.abs().max())) <= TF32_EXACT or device.type == "cpu"
        self.backend = backend or ("float32" if small and FloatConv.fits(expanded, largest) else "float64")
        dtype = torch.float32 if self.backend == "float32" else torch.float64
        self._conv = FloatConv(expanded, geometry, largest, dtype, device)
        sent = [(operand.pattern, operand.table, operand.chosen) for operand in self.operands]
        quick = device.type == "cpu" and dtype == torch.float32 and table_lookup.kernel() is not None
        self._lookup = Lookup(sent, spec, self.channels, geometry.groups) if quick else None

    @property
    def layout(self) -> str:
        """For reports: channels per channel."""
        return f"{self.width / self.channels:.1f} by table"

    def accumulate(self, x: Tensor) -> Tensor:
        """int32 sums (N, O, H', W') of uint8 levels."""
        return torch.cat([self._conv.accumulate(self._expand(part, 1.0, False)) for part in self._pieces(x)])

    def convolve(self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, signed: bool) -> Tensor:
        """sums * scale + bias of float32 activations or their levels, float32 (N, O, H', W')."""
        outputs = []
        for part in self._pieces(x):
            outputs.append(self._conv.convolve(self._expand(part, x_scale, signed), scale, bias))
        return torch.cat(outputs).contiguous(memory_format=torch.channels_last)

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        per_image = 2 * self.width * self.geometry.groups * x.shape[2] * x.shape[3]
        return torch.split(x, images_at_a_time(per_image, self.kernel, self.device))

    def _expand(self, x: Tensor, x_scale: float, signed: bool) -> Tensor:
        """What is sent for float32 activations or their levels."""
        if self._lookup is not None:
            sent = self._lookup(x, x_scale)
            # a range of channels is taken out of this layout with long copies only
            return sent if len(self._conv.chunks) == 1 else sent.contiguous()
        levels = quantize_activation(x, x_scale, signed) if x.dtype == torch.float32 else x
        images, total, height, width = levels.shape
        groups = self.geometry.groups
        a = levels.to(torch.int32).reshape(images, groups, total // groups, height, width)
        part, nonzero = total // groups // self.spec.threads, (a != 0).to(torch.int32)
        active = [torch.roll(nonzero, -r * part, 2) for r in range(1, self.spec.threads)]
        sent = torch.cat([operand.send(a, active) for operand in self.operands], 2)
        return sent.reshape(images, groups * self.width, height, width)


def _met(weight: Tensor, spec: SmtSpec, factors: Factors) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Pattern, table of what is sent, and the weights that meet it, int16 shaped as `weight`."""
    of_activation = torch.from_numpy(factors.of_activation).to(torch.int16)  # (T, 256, terms)
    of_weight = torch.from_numpy(factors.of_weight).to(torch.int16)  # (terms, 256)
    patterns = weight_patterns(weight, spec)
    for pattern in sorted(set(patterns.flatten().tolist())):
        # without sparsity all threads are active, whatever they hold
        rows = of_activation[: pattern.bit_count() + 1] if spec.sparsity else of_activation[-1:]
        for term in range(factors.terms):
            met = of_weight[term][weight.long() + 128] * (patterns == pattern)
            yield (pattern if spec.sparsity else 0), rows[:, :, term], met
