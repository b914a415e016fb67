"""What happens inside the processing elements of a layer, counted exactly without visiting them.

Which threads are active is a product of an activation's mask and a weight's mask, so a count over all outputs is a sum
over (channel, tap) of how often the one holds times how often the other does. Counts of "exactly q partners active"
follow from those of "all partners of a subset active" by inclusion and exclusion.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import LARGEST_NARROW_ACTIVATION, is_lossy_activation, is_narrow_weight, reduce_weight
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu.squares import squared_sums
from bnrecal.nbsmt.geometry import Pair, im2col, pad, pointwise
from bnrecal.nbsmt.operands import foldable_weight
from bnrecal.nbsmt.own_policy import is_own
from bnrecal.nbsmt.policy import POLICIES
from bnrecal.nbsmt.spec import SmtSpec


@dataclass(frozen=True, eq=False)
class Statistics:
    """Exact counts over some inputs of one layer; those of more inputs add up.

    Attributes:
        steps_by_active: processing-element steps with 0, 1, ..., T active threads. Without sparsity all T are active.
        reduced_activations: operands a that r(a) replaced and changed; None for a policy of the user's own, whose rule
            does not say which operand it reduces.
        reduced_weights: operands b that r(b) replaced and changed; None likewise.
        activations, zero_activations: elements of the layer's input, and those that are 0.
        weights, zero_weights: elements of its weight, and those that are 0, once for every input added.
        outputs: accumulators.
        squared_error: float64 (O,), per filter the sum of squared differences of the accumulators from those of the
            exact 8-bit convolution.
        squared_output: float64 (O,), per filter the sum of squares of the latter.
    """

    steps_by_active: tuple[int, ...]
    reduced_activations: int | None
    reduced_weights: int | None
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
            _added(self.reduced_activations, other.reduced_activations),
            _added(self.reduced_weights, other.reduced_weights),
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


def _added(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


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
    squared_error, squared_output = squared_sums(found, exact).cpu()
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
        squared_error=squared_error,
        squared_output=squared_output,
    )


def _reduced(counts: "_Counts", spec: SmtSpec) -> tuple[int | None, int | None]:
    """How many activations and how many weights lose bits, from what happens at one partner and at more."""
    if spec.threads == 1:
        return 0, 0
    if is_own(spec.policy):
        return None, None
    policy = POLICIES[spec.policy]
    a = sum(counts.by_partners("lossy", "active")[2:])
    b = sum(counts.by_partners("active", "lossy")[2:])
    if policy.activation_reduced:
        a += counts.by_partners("lossy", policy.activation_reduced)[1]
    if policy.weight_reduced:
        b += counts.by_partners(policy.weight_reduced, "lossy")[1]
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
        self._marks: dict[tuple[str, str], Callable[[], Tensor]] = {
            ("a", "active"): lambda: (a != 0) | zeros,
            ("a", "wide"): lambda: a > LARGEST_NARROW_ACTIVATION,
            ("a", "lossy"): lambda: is_lossy_activation(a),
            ("b", "active"): lambda: (b != 0) | zeros,
            ("b", "wide"): lambda: ~is_narrow_weight(b),
            ("b", "lossy"): lambda: reduce_weight(b, spec.rounding, spec.saturate) != b,
        }
        self.rows, self.columns = (
            _window(a.shape[3 + d], kernel[d], g.stride[d], g.dilation[d], output[d]).to(x.device) for d in range(2)
        )
        # Without sparsity all partners are active always.
        partners = range(1, spec.threads) if spec.sparsity else range(0)
        self._partners = {
            side: [_rolled(self._marked(side, "active"), r, spec.threads) for r in partners] for side in "ab"
        }
        self._often: dict[tuple[str, str], Tensor] = {}

    def by_partners(self, activation: str, weight: str) -> list[int]:
        """Active pairs whose operands carry these marks, by their number of active partners: 0, ..., T - 1."""
        threads = self.spec.threads
        met = (self._counted("a", activation) * self._counted("b", weight)).flatten(1).sum(1).tolist()
        if not self.spec.sparsity:
            return [0] * (threads - 1) + met
        at_least = [sum(n for s, n in enumerate(met) if s.bit_count() == size) for size in range(threads)]
        return [
            sum((-1) ** (size - q) * comb(size, q) * at_least[size] for size in range(q, threads))
            for q in range(threads)
        ]

    def _counted(self, side: str, mark: str) -> Tensor:
        """int64 (subsets, G, C, kh, kw): how often operands carry a mark while the partners of a subset are active.

        Bit r - 1 of a subset is partner r; without sparsity there is the empty one alone. Activations are counted over
        the positions that a tap sees, weights over filters.
        """
        if (side, mark) not in self._often:
            add_up = self._over_positions if side == "a" else _over_filters
            subsets = [self._marked(side, mark)]
            for partner in self._partners[side]:
                subsets += [found & partner for found in subsets]
            self._often[side, mark] = torch.stack([add_up(found) for found in subsets])
        return self._often[side, mark]

    def _marked(self, side: str, mark: str) -> Tensor:
        """uint8, shaped as the operands of a side."""
        return self._marks[side, mark]().view(torch.uint8)

    def _over_positions(self, marks: Tensor) -> Tensor:
        """(N, G, C, H, W) to int64 (G, C, kh, kw)."""
        seen = _add_up(marks).double()  # exact: far below 2^53
        return (self.rows @ (seen @ self.columns.T)).long()


def _over_filters(marks: Tensor) -> Tensor:
    """(G, O / G, C, kh, kw) to int64 (G, C, kh, kw)."""
    return marks.sum(1, dtype=torch.int64)


def _rolled(marks: Tensor, partner: int, threads: int) -> Tensor:
    """Those of a partner in an operand's place; channels in dimension 2."""
    return marks.roll(-partner * (marks.shape[2] // threads), 2)


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
