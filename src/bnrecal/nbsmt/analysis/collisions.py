"""Collisions inside the processing elements of a layer, counted exactly without visiting each step.

Each operand carries *marks*, 0 or 1: "active" (not zero), "lossy" (r changes it), "wide" (it does not fit 4 bits). A
thread is active where both its operands are, which is a product of an activation's mark and a weight's. In three steps:

1. For every subset of partners, count at each (channel, tap) how many activations carry a mark while the subset's
   activations are active, and how many weights do: `_counted`.
2. Over all outputs every such activation comes with every such weight. The product of both counts, summed over channels
   and taps, is how many pairs carry their marks while *at least* the partners of the subset are active.
3. From "at least" to "exactly" by inclusion and exclusion: `by_partners`.

Example, T = 2, so that the only partner is 1: 10 active pairs, 4 of them with an active partner. Subset {} counts 10,
subset {1} counts 4: exactly 0 partners for 10 - 4 = 6 pairs, exactly 1 for 4. In steps: 6 with one active thread, and
4 / 2 = 2 with two, for each of them is seen from both its threads.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import comb
from operator import add
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import is_narrow_weight, reduce_weight
from bnrecal.nbsmt.engines.cpu.channel_sums import squared_sums
from bnrecal.nbsmt.geometry import Pair, pad
from bnrecal.nbsmt.policies.builtin import built_in
from bnrecal.nbsmt.policies.custom import is_custom
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec


@dataclass(frozen=True, eq=False)
class CollisionStatistics:
    """Exact counts over some inputs of one layer; those of more inputs add up.

    Attributes:
        steps_by_active: processing-element steps with 0, 1, ..., T active threads. Without sparsity all T are active.
        reduced_activations: operands a that r(a) replaced and changed; None for a custom policy, whose rule does not
            say which operand it reduces.
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

    def __add__(self, other: "CollisionStatistics") -> "CollisionStatistics":
        if len(self.steps_by_active) != len(other.steps_by_active):
            mine = len(self.steps_by_active) - 1
            theirs = len(other.steps_by_active) - 1
            raise ValueError(f"statistics of {mine} and of {theirs} threads do not add up")
        sums = [_added(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return CollisionStatistics(*sums)

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


def _added(one: Any, other: Any) -> Any:
    """Return the sum of two counts; None where one is unknown, and of tuples the sum place by place."""
    if isinstance(one, tuple):
        return tuple(map(add, one, other))
    return None if one is None or other is None else one + other


Mark: TypeAlias = Literal["active", "lossy", "wide"]
NARROW_BITS = 4  # an activation of so many bits is never reduced, a wider one but for multiples of 16
# Inputs and outputs of a layer that are counted at a time: each takes some 40 bytes meanwhile.
PIECE_ELEMENTS = 2**24


@torch.no_grad()
def collision_statistics(prepared: PreparedConv2d, x: Tensor) -> CollisionStatistics:
    """Return the statistics of one call, gathered from a few images at a time.

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


def _of_piece(prepared: PreparedConv2d, x: Tensor) -> CollisionStatistics:
    threads = prepared.spec.threads
    sums = prepared.accumulate(x)
    exact = prepared.one_thread.accumulate(x) if threads > 1 else sums
    squared_error, squared_output = squared_sums(sums, exact).cpu()
    counts = _Counts(prepared, x, (sums.shape[2], sums.shape[3]))
    steps = -(-prepared.weight[0].numel() // threads) * sums.numel()
    # A step with q + 1 active threads counts once for each of them.
    several = [pairs // (q + 1) for q, pairs in enumerate(counts.by_partners("active", "active"))]
    reduced_a, reduced_b = _reduced(counts, prepared.spec)
    if not prepared.spec.sparsity:
        several = [0] * (threads - 1) + [steps]
    return CollisionStatistics(
        steps_by_active=(steps - sum(several), *several),
        reduced_activations=reduced_a,
        reduced_weights=reduced_b,
        activations=x.numel(),
        zero_activations=x.numel() - int(x.count_nonzero()),
        weights=prepared.weight.numel(),
        zero_weights=prepared.weight.numel() - int(prepared.weight.count_nonzero()),
        outputs=sums.numel(),
        squared_error=squared_error,
        squared_output=squared_output,
    )


def _reduced(counts: "_Counts", spec: SmtSpec) -> tuple[int | None, int | None]:
    """Return how many activations and how many weights lose bits, None where a policy's rule does not say.

    Among three active threads or more both operands are reduced; of two, the one that the policy says.
    """
    if spec.threads == 1:
        return 0, 0
    if is_custom(spec.policy):
        return None, None
    policy = built_in(spec.policy)
    a = sum(counts.by_partners("lossy", "active")[2:])
    b = sum(counts.by_partners("active", "lossy")[2:])
    if policy.activation_reduced:
        a += counts.by_partners("lossy", policy.activation_reduced)[1]
    if policy.weight_reduced:
        b += counts.by_partners(policy.weight_reduced, "lossy")[1]
    return a, b


class _Counts:
    """Pairs of operands, counted by their own marks and by how many partners are active with them."""

    def __init__(self, prepared: PreparedConv2d, x: Tensor, output: Pair) -> None:
        layer = prepared.layer
        if layer.folds_taps:
            x = layer.fold(x)
            layer = layer.folded
        self.spec = layer.spec
        g = layer.geometry
        kernel = layer.kernel
        a = pad(x, g).contiguous()
        self.a = a.view(a.shape[0], g.groups, a.shape[1] // g.groups, a.shape[2], a.shape[3])  # (N, G, C, H, W)
        b = layer.weight.to(x.device)
        self.b = b.reshape(g.groups, b.shape[0] // g.groups, *b.shape[1:])  # (G, O / G, C, kh, kw)
        # (kh, H) and (kw, W): 1 where a tap falls on a row, or a column, for some output
        self.rows = _window(self.a.shape[3], kernel[0], g.stride[0], g.dilation[0], output[0]).to(x.device)
        self.columns = _window(self.a.shape[4], kernel[1], g.stride[1], g.dilation[1], output[1]).to(x.device)
        self._kept: dict[tuple[str, Mark], Tensor] = {}

    def by_partners(self, activation: Mark, weight: Mark) -> list[int]:
        """Return how many active pairs carry these marks, by their number of active partners: 0, ..., T - 1."""
        threads = self.spec.threads
        # (subsets,): pairs with the marks while at least the partners of a subset are active
        pairs = (self._counted("a", activation) * self._counted("b", weight)).flatten(1).sum(1).tolist()
        if not self.spec.sparsity:
            return [0] * (threads - 1) + pairs
        # Subsets of one size together. A pair with s active partners is in comb(s, size) of them.
        at_least = [0] * threads
        for subset, count in enumerate(pairs):
            at_least[subset.bit_count()] += count
        # exactly[q] = sum over sizes s >= q of (-1)^(s - q) * comb(s, q) * at_least[s].
        # T = 4, one pair with 2 active partners: at_least = [1, 2, 1, 0], and exactly[1] = 2 - 2 * 1 + 3 * 0 = 0.
        exactly = []
        for q in range(threads):
            terms = [(-1) ** (size - q) * comb(size, q) * at_least[size] for size in range(q, threads)]
            exactly.append(sum(terms))
        return exactly

    def _counted(self, side: Literal["a", "b"], mark: Mark) -> Tensor:
        """Return int64 (subsets, G, C, kh, kw): how often operands carry a mark while those of a subset are active.

        Bit r - 1 of a subset is partner r; without sparsity there is the empty one alone. Activations are counted over
        the positions that a tap sees, weights over filters.
        """
        if (side, mark) not in self._kept:
            self._kept[side, mark] = self._over_positions(mark) if side == "a" else self._over_filters(mark)
        return self._kept[side, mark]

    def _over_positions(self, mark: Mark) -> Tensor:
        count = 2 ** (self.spec.threads - 1) if self.spec.sparsity else 1
        counts = torch.zeros(count, *self.b.shape[:1], *self.b.shape[2:], dtype=torch.int64, device=self.b.device)
        for images in torch.split(self.a, 255):  # so many 0s and 1s add up in a byte, many times faster than in an int
            seen = torch.zeros(count, *self.a.shape[1:], dtype=torch.uint8, device=self.a.device)
            for image in images:  # one at a time: its marks stay in the cache, in memory that is there already
                for subset, marks in enumerate(self._subsets(image, mark, _marked_activations)):
                    seen[subset] += marks
            # (kh, H) @ (G, C, H, W) @ (W, kw): the sum over the positions that each tap sees; in float64, exact: far
            # below 2^53
            for subset in range(count):
                counts[subset] += (self.rows @ seen[subset].double() @ self.columns.T).long()
        return counts

    def _over_filters(self, mark: Mark) -> Tensor:
        subsets = self._subsets(self.b, mark, self._marked_weights)
        return torch.stack([marks.sum(1, dtype=torch.int64) for marks in subsets])

    def _subsets(self, operand: Tensor, mark: Mark, marked: Callable[[Tensor, Mark], Tensor]) -> list[Tensor]:
        """Return for each subset of partners where operands carry a mark and all of the subset are active.

        Subsets come in the order of their bits: {}, {1}, {2}, {1, 2}, {3}, ... Channels are third from last.
        """
        if not self.spec.sparsity:  # then zeros are active too, and only the whole set counts
            return [torch.ones_like(operand, dtype=torch.uint8) if mark == "active" else marked(operand, mark)]
        active = marked(operand, "active")
        subsets = [active if mark == "active" else marked(operand, mark)]
        for r in range(1, self.spec.threads):
            # Partner r of channel c is c + r * C / T. Every subset so far comes once more, with this partner.
            partner = active.roll(-r * (operand.shape[-3] // self.spec.threads), -3)
            subsets += [marks & partner for marks in subsets]
        return subsets

    def _marked_weights(self, b: Tensor, mark: Mark) -> Tensor:
        """Return uint8, shaped as b."""
        if mark == "active":
            return (b != 0).byte()
        lossy = reduce_weight(b, self.spec.rounding, self.spec.saturate) != b
        return (lossy if mark == "lossy" else ~is_narrow_weight(b)).byte()


def _marked_activations(a: Tensor, mark: Mark) -> Tensor:
    """Return uint8, shaped as a. On bytes torch takes ten times as long to compare as to shift and clamp."""
    if mark == "active":
        return a.clamp(max=1)
    wide = (a >> NARROW_BITS).clamp_(max=1)
    return wide if mark == "wide" else wide & (a & 15).clamp_(max=1)


def _window(size: int, taps: int, stride: int, dilation: int, outputs: int) -> Tensor:
    """Return float64 (taps, size): 1 where an output's tap falls on a row (or column) of the padded input."""
    window = torch.zeros(taps, size, dtype=torch.float64)
    for tap in range(taps):
        window[tap, torch.arange(outputs) * stride + tap * dilation] = 1
    return window
