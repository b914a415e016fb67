"""What happens inside the processing elements of a layer, counted exactly without visiting them.

Which threads are active is a product of an activation's mask and a weight's mask, so a count over all outputs is a sum
over (channel, tap) of how often the one holds times how often the other does. Counts of "exactly q partners active"
follow from those of "all partners of a subset active" by inclusion and exclusion.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import LARGEST_NARROW_ACTIVATION, is_narrow_weight, reduce_activation, reduce_weight
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.geometry import Pair, im2col, pad, pointwise
from bnrecal.nbsmt.operands import foldable_weight
from bnrecal.nbsmt.own_policy import is_own
from bnrecal.nbsmt.spec import SmtSpec


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


# Inputs and outputs of a layer that are counted at a time: each takes some 40 bytes meanwhile.
PIECE_ELEMENTS = 2**24


@torch.no_grad()
def conv_statistics(prepared: PreparedConv2d, x: Tensor) -> Statistics:
    """The statistics of one call, gathered from a few images at a time.

    Args:
        prepared: the layer.
        x: uint8 (N, C, H, W), as for `prepared.accumulate`.
    """
    height, width = prepared.geometry.output_size((x.shape[2], x.shape[3]), prepared.kernel)
    elements = max(1, x[0].numel() if len(x) else 1, len(prepared.weight) * max(0, height * width))
    first, *others = torch.split(x, max(1, PIECE_ELEMENTS // elements))
    total = _of_piece(prepared, first)
    for piece in others:
        # what it says of the weights holds once a call
        total += replace(_of_piece(prepared, piece), weights=0, zero_weights=0)
    return total


def _of_piece(prepared: PreparedConv2d, x: Tensor) -> Statistics:
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
    """How many activations and how many weights lose bits, from what happens at one partner and at more.

    0 for a policy of the user's own, which does not say which operand it reduces.
    """
    if spec.threads == 1 or is_own(spec.policy):
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
    """Pairs of operands by their own marks and by how many partners are active with them. Marks are 0 or 1."""

    def __init__(self, prepared: PreparedConv2d, x: Tensor, output: Pair) -> None:
        spec, g, kernel = prepared.spec, prepared.geometry, prepared.kernel
        if prepared.by_columns:
            x, g, kernel = im2col(x, kernel, g, prepared.columns), pointwise(g.groups), (1, 1)
        self.spec = spec
        a = pad(x, g).contiguous()
        a = a.view(a.shape[0], g.groups, a.shape[1] // g.groups, a.shape[2], a.shape[3])
        b = foldable_weight(prepared.weight, spec.threads).to(x.device)
        b = b.reshape(g.groups, b.shape[0] // g.groups, *b.shape[1:])
        zeros = not spec.sparsity  # then they count as active too
        self.activations = {
            "active": a.clamp(max=1) | zeros,
            "wide": (a > LARGEST_NARROW_ACTIVATION).byte(),
            "lossy": (reduce_activation(a, spec.rounding, spec.saturate) != a).byte(),
        }
        self.weights = {
            "active": (b != 0).byte() | zeros,
            "wide": (~is_narrow_weight(b)).byte(),
            "lossy": (reduce_weight(b, spec.rounding, spec.saturate) != b).byte(),
        }
        self.rows, self.columns = (
            _window(a.shape[3 + d], kernel[d], g.stride[d], g.dilation[d], output[d]).to(x.device) for d in range(2)
        )
        self._often: dict[tuple[str, str, tuple[int, ...]], Tensor] = {}

    def by_partners(self, activation: str, weight: str) -> list[int]:
        """Active pairs whose operands carry these marks, by their number of active partners: 0, ..., T - 1."""
        threads = self.spec.threads
        if not self.spec.sparsity:
            return [0] * (threads - 1) + [self._pairs(activation, weight, ())]
        at_least = [
            sum(self._pairs(activation, weight, partners) for partners in combinations(range(1, threads), size))
            for size in range(threads)
        ]
        return [
            sum((-1) ** (size - q) * comb(size, q) * at_least[size] for size in range(q, threads))
            for q in range(threads)
        ]

    def _pairs(self, activation: str, weight: str, partners: tuple[int, ...]) -> int:
        """Over all outputs, how often such an activation meets such a weight while these partners are active."""
        key = ("activation", activation, partners)
        if key not in self._often:
            marks = _with_partners(self.activations, activation, partners, self.spec.threads)
            seen = _add_up(marks).double()  # (G, C, H, W), exact: far below 2^53
            self._often[key] = self.rows @ (seen @ self.columns.T)
        other = ("weight", weight, partners)
        if other not in self._often:
            marks = _with_partners(self.weights, weight, partners, self.spec.threads)
            self._often[other] = marks.sum(1, dtype=torch.int64)
        return int((self._often[key].long() * self._often[other]).sum())


def _with_partners(marks: dict[str, Tensor], own: str, partners: tuple[int, ...], threads: int) -> Tensor:
    """Where `own` holds and the partners are active; channels in dimension 2."""
    found = marks[own]
    for r in partners:
        found = found & marks["active"].roll(-r * (found.shape[2] // threads), 2)
    return found


def _add_up(marks: Tensor) -> Tensor:
    """The sum over images of 0s and 1s, in bytes as long as they last: many times faster than a widening sum."""
    total = torch.zeros(marks.shape[1:], dtype=torch.int32, device=marks.device)
    for first in range(0, marks.shape[0], 255):
        part = torch.zeros_like(total, dtype=torch.uint8)
        for image in marks[first : first + 255]:
            part += image
        total += part
    return total


def _window(size: int, taps: int, stride: int, dilation: int, outputs: int) -> Tensor:
    """float64 (taps, size): 1 where an output's tap falls on a row (or column) of the padded input."""
    window = torch.zeros(taps, size, dtype=torch.float64)
    for tap in range(taps):
        window[tap, torch.arange(outputs) * stride + tap * dilation] = 1
    return window
