"""What happens inside the processing elements of a layer, counted exactly without visiting them.

Which threads are active is a product of an activation's mask and a weight's mask, so a count over all outputs is a sum
over (channel, tap) of how often the one holds times how often the other does. Counts of "exactly q partners active"
follow from those of "all partners of a subset active" by inclusion and exclusion.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from bnrecal.smt.arithmetic import is_narrow_weight, reduce_activation, reduce_weight
from bnrecal.smt.engine import PreparedConv2d
from bnrecal.smt.expand import foldable_weight
from bnrecal.smt.geometry import im2col, pad, pointwise
from bnrecal.smt.spec import SmtSpec


@dataclass(frozen=True, eq=False)
class Statistics:
    """Exact counts over some inputs of one layer; those of more inputs add up.

    Attributes:
        steps_by_active: processing-element steps with 0, 1, ..., T active threads. Without sparsity all T are active.
        reduced_activations: operands a that r(a) replaced and changed.
        reduced_weights: operands b that r(b) replaced and changed.
        activations, zero_activations: elements of the layer's input, and those that are 0.
        weights, zero_weights: elements of its weight, and those that are 0, once for every input added.
        outputs: accumulators.
        squared_error: float64 (O,), per filter the sum of squared differences of the accumulators from those of the
            exact 8-bit convolution.
        squared_output: float64 (O,), per filter the sum of squares of the latter.
    """

    steps_by_active: tuple[int, ...]
    reduced_activations: int
    reduced_weights: int
    activations: int
    zero_activations: int
    weights: int
    zero_weights: int
    outputs: int
    squared_error: Tensor
    squared_output: Tensor

    def __add__(self, other: "Statistics") -> "Statistics":
        if len(self.steps_by_active) != len(other.steps_by_active):
            threads = len(self.steps_by_active) - 1, len(other.steps_by_active) - 1
            raise ValueError("statistics of {} and of {} threads do not add up".format(*threads))
        steps = zip(self.steps_by_active, other.steps_by_active, strict=True)
        return Statistics(
            tuple(mine + theirs for mine, theirs in steps),
            self.reduced_activations + other.reduced_activations,
            self.reduced_weights + other.reduced_weights,
            self.activations + other.activations,
            self.zero_activations + other.zero_activations,
            self.weights + other.weights,
            self.zero_weights + other.zero_weights,
            self.outputs + other.outputs,
            self.squared_error + other.squared_error,
            self.squared_output + other.squared_output,
        )

    @property
    def steps(self) -> int:
        """Processing-element steps in all."""
        return sum(self.steps_by_active)

    @property
    def active_operands(self) -> int:
        """Activations (and as many weights) that active threads brought to the multiplier."""
        return sum(active * steps for active, steps in enumerate(self.steps_by_active))

    @property
    def zero_activation_share(self) -> float:
        return self.zero_activations / self.activations if self.activations else 0.0

    @property
    def zero_weight_share(self) -> float:
        return self.zero_weights / self.weights if self.weights else 0.0

    @property
    def mse(self) -> float:
        """Mean squared error of the accumulators, in squared integer units."""
        return float(self.squared_error.sum()) / self.outputs if self.outputs else 0.0


@torch.no_grad()
def conv_statistics(prepared: PreparedConv2d, x: Tensor) -> Statistics:
    """The statistics of one call.

    Args:
        prepared: the layer.
        x: uint8 (N, C, H, W), as for `prepared.accumulate`.
    """
    found = prepared.accumulate(x)
    exact = prepared.one_thread().accumulate(x) if prepared.spec.threads > 1 else found
    error = (found - exact).double().square().sum((0, 2, 3))
    counts = _Counts(prepared, x, (found.shape[2], found.shape[3]))
    steps = -(-prepared.weight[0].numel() // prepared.spec.threads) * found.numel()
    active = counts.by_partners("active", "active")
    several = [met // (q + 1) for q, met in enumerate(active)]
    reduced_a, reduced_b = _reduced(counts, prepared.spec)
    if not prepared.spec.sparsity:
        several = [0] * (prepared.spec.threads - 1) + [steps]
    return Statistics(
        steps_by_active=(steps - sum(several), *several),
        reduced_activations=reduced_a,
        reduced_weights=reduced_b,
        activations=x.numel(),
        zero_activations=x.numel() - int(x.count_nonzero()),
        weights=prepared.weight.numel(),
        zero_weights=prepared.weight.numel() - int(prepared.weight.count_nonzero()),
        outputs=found.numel(),
        squared_error=error.cpu(),
        squared_output=exact.double().square().sum((0, 2, 3)).cpu(),
    )


def _reduced(counts: "_Counts", spec: SmtSpec) -> tuple[int, int]:
    """How many activations and how many weights lose bits, from what happens at one partner and at more."""
    if spec.threads == 1:
        return 0, 0
    weight_of_a = {"A": "active", "Aw": "wide"}.get(spec.policy)
    activation_of_b = {"W": "active", "aW": "wide"}.get(spec.policy)
    a = sum(counts.by_partners("lossy", "active")[2:])
    b = sum(counts.by_partners("active", "lossy")[2:])
    if weight_of_a:
        a += counts.by_partners("lossy", weight_of_a)[1]
    if activation_of_b:
        b += counts.by_partners(activation_of_b, "lossy")[1]
    return a, b


class _Counts:
    """Pairs of operands by their own marks and by how many partners are active with them."""

    def __init__(self, prepared: PreparedConv2d, x: Tensor, output: tuple[int, int]) -> None:
        spec, g, kernel = prepared.spec, prepared.geometry, prepared.kernel
        if prepared.by_columns:
            x, g, kernel = im2col(x, kernel, g, prepared.columns), pointwise(g.groups), (1, 1)
        self.spec, self.geometry, self.kernel, self.output = spec, g, kernel, output
        a = pad(x, g)
        self.a = a.reshape(a.shape[0], g.groups, -1, a.shape[2], a.shape[3])
        w = foldable_weight(prepared.weight, prepared.spec.threads).to(x.device)
        self.b = w.reshape(g.groups, -1, *w.shape[1:])
        lossy_a = reduce_activation(self.a, spec.rounding, spec.saturate) != self.a
        lossy_b = reduce_weight(self.b, spec.rounding, spec.saturate) != self.b
        zeros = not spec.sparsity  # then they count as active too
        self.activation_marks = {"active": (self.a != 0) | zeros, "wide": self.a > 15, "lossy": lossy_a}
        self.weight_marks = {"active": (self.b != 0) | zeros, "wide": ~is_narrow_weight(self.b), "lossy": lossy_b}

    def by_partners(self, activation: str, weight: str) -> list[int]:
        """Active pairs whose operands carry these marks, by their number of active partners: 0, ..., T - 1."""
        threads, a, b = self.spec.threads, self.activation_marks[activation], self.weight_marks[weight]
        if not self.spec.sparsity:
            return [0] * (threads - 1) + [self._pairs(a, b)]
        part = self.b.shape[2] // threads
        at_least = [0] * threads
        for size in range(threads):
            for partners in combinations(range(1, threads), size):
                u, v = a, b
                for r in partners:
                    u = u & self.activation_marks["active"].roll(-r * part, 2)
                    v = v & self.weight_marks["active"].roll(-r * part, 2)
                at_least[size] += self._pairs(u, v)
        return [
            sum((-1) ** (size - q) * comb(size, q) * at_least[size] for size in range(q, threads))
            for q in range(threads)
        ]

    def _pairs(self, u: Tensor, v: Tensor) -> int:
        """Over all outputs, how often activations marked u (N, G, C, H, W) meet weights marked v (G, O, C, kh, kw)."""
        seen = u.sum(0, dtype=torch.int32)  # the images first: taps then cost a fraction
        met = v.sum(1, dtype=torch.int64)
        total = 0
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                total += int((self._window(seen, i, j).sum((2, 3), dtype=torch.int64) * met[:, :, i, j]).sum())
        return total

    def _window(self, seen: Tensor, i: int, j: int) -> Tensor:
        g = self.geometry
        top, left = i * g.dilation[0], j * g.dilation[1]
        bottom, right = top + (self.output[0] - 1) * g.stride[0] + 1, left + (self.output[1] - 1) * g.stride[1] + 1
        return seen[:, :, top : bottom : g.stride[0], left : right : g.stride[1]]
