"""NB-SMT as an ordinary convolution of more channels (docs/nbsmt.md derives it).

Thread t owns channels [t*C/T, (t+1)*C/T). The partners of channel c are the T - 1 channels c + r*C/T (mod C),
r = 1..T-1, at the same kernel tap. Which of its partners' weights are non-zero is known of a weight when it is packed:
its *pattern* P, a set of r's. Within one pattern the product depends on activations alone, through n = how many
partners of P are non-zero, so each pattern becomes one or two more input channels, and every weight goes into the
channels of its own pattern.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.smt.arithmetic import (
    LARGEST_NARROW_ACTIVATION,
    is_narrow_weight,
    reduce_activation,
    reduce_weight,
)
from bnrecal.smt.spec import SmtSpec


class Value(IntEnum):
    """What an expanded channel carries in place of activation a."""

    ZERO = 0
    EXACT = 1  # a
    REDUCED = 2  # r(a)
    NARROW = 3  # a where a <= 15, else 0
    WIDE = 4  # a where a > 15, else 0


@dataclass(frozen=True, order=True)
class Operand:
    """One expanded channel per channel.

    Attributes:
        pattern: the partners that count, bit r - 1 for partner r.
        values: what is sent when 0, 1, and 2 or more of those partners' activations are non-zero.
    """

    pattern: int
    values: tuple[Value, Value, Value]


# Per policy: which part of the weight meets what of the activation at n = 0, 1, >= 2 active partners.
# "b" the weight, "rb" r(b), "e" r(b) - b, "narrow" and "wide" the weights inside and outside [-8, 7].
_Z, _A, _R, _S, _L = Value.ZERO, Value.EXACT, Value.REDUCED, Value.NARROW, Value.WIDE
_TERMS: dict[str, tuple[tuple[str, tuple[Value, Value, Value]], ...]] = {
    "A": (("b", (_A, _R, _R)), ("e", (_Z, _Z, _R))),
    "Aw": (("wide", (_A, _R, _R)), ("narrow", (_A, _A, _R)), ("e", (_Z, _Z, _R))),
    "W": (("b", (_A, _Z, _Z)), ("rb", (_Z, _A, _R))),
    "aW": (("b", (_A, _S, _Z)), ("rb", (_Z, _L, _R))),
}


def _canonical(pattern: int, values: tuple[Value, Value, Value]) -> Operand:
    """The same operand however it was reached, so that weights of several patterns share a channel where they can."""
    reachable = min(pattern.bit_count(), 2)
    kept = [values[min(n, reachable)] for n in range(3)]
    if kept[0] == kept[1] == kept[2]:
        pattern = 0
    return Operand(pattern, (kept[0], kept[1], kept[2]))


def _weight_parts(w: Tensor, spec: SmtSpec) -> dict[str, Tensor]:
    b = w.to(torch.int16)
    reduced, narrow = reduce_weight(b, spec.rounding, spec.saturate), is_narrow_weight(b)
    return {"b": b, "rb": reduced, "e": reduced - b, "narrow": b * narrow, "wide": b * ~narrow}


def _patterns(w: Tensor, spec: SmtSpec) -> Iterator[tuple[int, Tensor | None]]:
    """Every pattern with where it holds, shaped as w (None: everywhere)."""
    if spec.threads == 1 or not spec.sparsity:
        yield (1 << (spec.threads - 1)) - 1, None
        return
    part = w.shape[1] // spec.threads
    nonzero = (w != 0).to(torch.int16)
    pattern = torch.zeros_like(nonzero)
    for r in range(1, spec.threads):
        pattern += torch.roll(nonzero, -r * part, 1) << (r - 1)
    for p in range(1 << (spec.threads - 1)):
        yield p, pattern == p


def foldable_weight(w: Tensor, threads: int) -> Tensor:
    """(O, C, kh, kw) as it is where C divides by the threads, else im2col's rows (O, K, 1, 1), padded until they do."""
    if w.shape[1] % threads == 0:
        return w
    rows = w.flatten(1)
    return F.pad(rows, (0, -rows.shape[1] % threads))[:, :, None, None]


def expand_weights(w: Tensor, spec: SmtSpec) -> tuple[tuple[Operand, ...], Tensor]:
    """Which activation operands the weights need, and the weights that meet them.

    Args:
        w: int8 (O, C, kh, kw) with C a multiple of spec.threads; C counts one group's channels.

    Returns:
        S operands, and int16 (O, S*C, kh, kw) with operand s at channels [s*C, (s+1)*C). Operands that meet only zero
        weights are left out, but for one. Within int8, except for +128 where spec.saturate is off.
    """
    parts, slots = _weight_parts(w, spec), dict[Operand, Tensor]()
    for pattern, where in _patterns(w, spec):
        for part, values in _TERMS[spec.policy]:
            # Without sparsity all partners count as active, whatever they hold.
            always = values[min(spec.threads - 1, 2)]
            operand = _canonical(pattern, values if spec.sparsity else (always, always, always))
            weight = parts[part] if where is None else parts[part] * where
            if operand.values[0] == operand.values[1] == operand.values[2] == Value.ZERO or not weight.any():
                continue
            slots[operand] = slots[operand] + weight if operand in slots else weight
    if not slots:
        slots[Operand(0, (_A, _A, _A))] = parts["b"]
    operands = tuple(sorted(slots))
    return operands, torch.cat([slots[operand] for operand in operands], 1)


def expand_activations(x: Tensor, operands: tuple[Operand, ...], spec: SmtSpec, groups: int = 1) -> Tensor:
    """The activations that `expand_weights` wants to meet.

    Args:
        x: uint8 (N, G*C, H, W), or int8 for the one operand that sends x as it is.

    Returns:
        int16 (N, G*S*C, H, W): for each group its S operands, each C channels wide; 0..255, or 256 if not
        spec.saturate. Channels-last where x is.
    """
    images, total, height, width = x.shape
    a = x.to(torch.int16).reshape(images, groups, total // groups, height, width)
    if operands == (Operand(0, (_A, _A, _A)),):
        return a.flatten(1, 2)
    wide = a > LARGEST_NARROW_ACTIVATION
    sent = {
        Value.ZERO: torch.zeros_like(a),
        Value.EXACT: a,
        Value.REDUCED: reduce_activation(a, spec.rounding, spec.saturate),
        Value.NARROW: a * ~wide,
        Value.WIDE: a * wide,
    }
    part, nonzero = total // groups // spec.threads, (a != 0).to(torch.int16)
    active = [torch.roll(nonzero, -r * part, 2) for r in range(1, spec.threads)]
    out = []
    for operand in operands:
        n = torch.zeros_like(a)
        for bit, partner in enumerate(active):
            if operand.pattern >> bit & 1:
                n = n + partner
        none, one, more = (sent[value] for value in operand.values)
        out.append(torch.where(n == 0, none, torch.where(n == 1, one, more)))
    expanded = torch.cat(out, 2).reshape(images, len(operands) * total, height, width)
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return expanded.contiguous(memory_format=layout)
