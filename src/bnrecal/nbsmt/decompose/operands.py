"""Operands made of activations, and the pattern of a weight, which says which operands it multiplies.

Thread t owns channels [t*C/T, (t+1)*C/T). The partners of channel c are the T - 1 channels c + r*C/T (mod C),
r = 1..T-1, at the same kernel tap. Which of its partners' weights are non-zero is known of a weight when it is packed:
its *pattern* P, a set of r's. Within one pattern the product depends on activations alone, through n = how many
partners of P are non-zero (docs/nbsmt.md).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.arithmetic import is_narrow_weight, reduce_weight
from bnrecal.nbsmt.policies.builtin import Value, WeightPart, built_in
from bnrecal.nbsmt.spec import SmtSpec

Values = tuple[Value, Value, Value]


@dataclass(frozen=True, order=True)
class Operand:
    """A value of the activation of every channel.

    Attributes:
        pattern: the partners that count, bit r - 1 for partner r.
        values: the activation's when 0, 1, and 2 or more of those partners' activations are non-zero.
    """

    pattern: int
    values: Values

    def excludes(self, other: "Operand") -> bool:
        """Return whether of both operands of one channel at most one is ever non-zero."""
        return self.pattern == other.pattern and all(
            mine.excludes(theirs) for mine, theirs in zip(self.values, other.values, strict=True)
        )


ACTIVATION = Operand(0, (Value.EXACT,) * 3)
NOTHING = Operand(0, (Value.ZERO,) * 3)


def full_pattern(threads: int) -> int:
    """Return the pattern of all partners."""
    return (1 << (threads - 1)) - 1


def weight_patterns(w: Tensor, spec: SmtSpec) -> Tensor:
    """Return int16, shaped as w (O, C, kh, kw): the pattern of every weight.

    Without sparsity it is the full one everywhere: all partners count as active, whatever they hold.
    """
    if spec.threads == 1 or not spec.sparsity:
        return torch.full_like(w, full_pattern(spec.threads), dtype=torch.int16)
    part = w.shape[1] // spec.threads
    nonzero = (w != 0).to(torch.int16)
    pattern = torch.zeros_like(nonzero)
    for r in range(1, spec.threads):
        pattern += torch.roll(nonzero, -r * part, 1) << (r - 1)
    return pattern


def operands_of(pattern: int, spec: SmtSpec) -> dict[Operand, tuple[WeightPart, ...]]:
    """Return the operands of a pattern, each with the parts of the weight that multiply it, in the policy's order."""
    operands: dict[Operand, tuple[WeightPart, ...]] = {}
    for term in built_in(spec.policy).terms:
        always = term.values[min(spec.threads - 1, 2)]
        operand = canonical_operand(pattern, term.values if spec.sparsity else (always, always, always))
        if operand != NOTHING:
            operands[operand] = (*operands.get(operand, ()), term.part)
    return operands


def canonical_operand(pattern: int, values: Values) -> Operand:
    """Return one form for equal operands, so that weights of several patterns share a channel where they can."""
    reachable = min(pattern.bit_count(), 2)
    none = values[0]
    one = values[min(1, reachable)]
    more = values[reachable]
    return Operand(0 if none == one == more else pattern, (none, one, more))


def weight_parts(b: Tensor, spec: SmtSpec) -> dict[WeightPart, Tensor]:
    """Return every part of the weights, int16, shaped as b."""
    b = b.to(torch.int16)
    reduced = reduce_weight(b, spec.rounding, spec.saturate)
    narrow = is_narrow_weight(b)
    return {"b": b, "rb": reduced, "e": reduced - b, "narrow": b * narrow, "wide": b * ~narrow}


def weight_for(parts: dict[WeightPart, Tensor], names: tuple[WeightPart, ...]) -> Tensor:
    """Return the factor of an operand: the sum of these parts of the weights."""
    total = parts[names[0]]
    for name in names[1:]:
        total = total + parts[name]
    return total


def fold_taps(w: Tensor, threads: int) -> Tensor:
    """Return (O, C, kh, kw) as it is where C divides by the threads, else im2col's rows (O, K, 1, 1), padded to do."""
    if w.shape[1] % threads == 0:
        return w
    rows = w.flatten(1)
    return F.pad(rows, (0, -rows.shape[1] % threads))[:, :, None, None]
