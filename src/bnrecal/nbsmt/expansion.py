"""NB-SMT as an ordinary convolution of more channels (docs/nbsmt.md derives it).

Thread t owns channels [t*C/T, (t+1)*C/T). The partners of channel c are the T - 1 channels c + r*C/T (mod C),
r = 1..T-1, at the same kernel tap. Which of its partners' weights are non-zero is known of a weight when it is packed:
its *pattern* P, a set of r's. Within one pattern the product depends on activations alone, through n = how many
partners of P are non-zero, so each pattern becomes one or two more input channels, and every weight goes into the
channels of its own pattern. Rare patterns hold few weights: theirs keep only the channels that have any.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.arithmetic import (
    LARGEST_NARROW_ACTIVATION,
    is_narrow_weight,
    reduce_activation,
    reduce_weight,
)
from bnrecal.nbsmt.spec import SmtSpec

# Picking pays for operands of which at most this share of channels meets a weight.
DENSE = 0.6
# Channels that oneDNN takes at a time. Of more than 32 blocks it makes larger ones that divide their number: one with
# a large prime factor takes several times as long.
BLOCK, FEW_BLOCKS, SMOOTH = 64, 32, (2, 3, 5, 7, 11, 13)


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


@dataclass(frozen=True, eq=False)
class Expansion:
    """What the channels of one group become: the whole operands, the picked ones, then zeros up to the width.

    Attributes:
        whole: operands of `channels` channels each.
        picked: operands of which only some channels meet a weight, with these channels (int64).
        width: channels of the expanded group.
    """

    channels: int
    whole: tuple[Operand, ...]
    picked: tuple[tuple[Operand, Tensor], ...]
    width: int

    @property
    def identity(self) -> bool:
        """Whether it sends the activations as they are."""
        return self.whole == (Operand(0, (_A, _A, _A)),) and not self.picked

    @property
    def padding(self) -> int:
        """Zero channels at the end."""
        return self.width - self.channels * len(self.whole) - sum(len(chosen) for _, chosen in self.picked)

    def places(self) -> Iterator[tuple[Operand, Tensor | None, int, int]]:
        """Every operand, its channels (None: all of them), and where they begin and end."""
        start = 0
        for operand in self.whole:
            yield operand, None, start, start + self.channels
            start += self.channels
        for operand, chosen in self.picked:
            yield operand, chosen, start, start + len(chosen)
            start += len(chosen)


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


def _meetings(w: Tensor, spec: SmtSpec) -> Iterator[tuple[Operand, Tensor]]:
    """Every operand with weights that meet it, shaped as w; the same operand may come again with others."""
    parts = _weight_parts(w, spec)
    for pattern, where in _patterns(w, spec):
        for part, values in _TERMS[spec.policy]:
            # Without sparsity all partners count as active, whatever they hold.
            always = values[min(spec.threads - 1, 2)]
            operand = _canonical(pattern, values if spec.sparsity else (always, always, always))
            if any(operand.values):
                yield operand, parts[part] if where is None else parts[part] * where


def plan_expansion(w: Tensor, spec: SmtSpec, device: torch.device | None = None) -> Expansion:
    """Which activation operands the weights need.

    Args:
        w: int8 (O, C, kh, kw) with C a multiple of spec.threads; C counts one group's channels.
        device: where activations will be; w's by default.
    """
    channels, as_is = w.shape[1], Expansion(w.shape[1], (Operand(0, (_A, _A, _A)),), (), w.shape[1])
    if spec.threads == 1:
        return as_is
    met: dict[Operand, Tensor] = {}
    for operand, weight in _meetings(w, spec):
        used = weight.ne(0).flatten(2).any(2).any(0)
        met[operand] = met[operand] | used if operand in met else used
    operands = sorted(operand for operand, used in met.items() if used.any())
    if not operands:
        return as_is
    plain = Expansion(channels, tuple(operands), (), channels * len(operands))
    picked = [
        (o, met[o].nonzero()[:, 0].to(device or w.device)) for o in operands if int(met[o].sum()) <= DENSE * channels
    ]
    sparse = {operand for operand, _ in picked}
    whole = tuple(operand for operand in operands if operand not in sparse)
    width = channels * len(whole) + sum(len(chosen) for _, chosen in picked)
    compact = Expansion(channels, whole, tuple(picked), _quick_width(width))
    return compact if compact.width < plain.width else plain


def _quick_width(width: int) -> int:
    """The next number of channels that oneDNN is quick at."""
    blocks = -(-width // BLOCK)
    while blocks > FEW_BLOCKS and not _is_smooth(blocks):
        blocks += 1
    return blocks * BLOCK


def _is_smooth(number: int) -> bool:
    for prime in SMOOTH:
        while number % prime == 0:
            number //= prime
    return number == 1


def expand_weights(w: Tensor, expansion: Expansion, spec: SmtSpec) -> Tensor:
    """The weights that meet the operands of their expansion.

    Returns:
        (O, width, kh, kw): int8, but int16 where spec.saturate is off and +128 possible.
    """
    dtype = torch.int8 if spec.saturate else torch.int16
    expanded = torch.zeros(w.shape[0], expansion.width, *w.shape[2:], dtype=dtype, device=w.device)
    places = {operand: (chosen, start, end) for operand, chosen, start, end in expansion.places()}
    for operand, weight in _meetings(w, spec):
        if operand in places:  # the others meet zeros alone
            chosen, start, end = places[operand]
            # What several parts of one weight add up to is within the format, whatever overflows on the way.
            expanded[:, start:end] += (weight if chosen is None else weight[:, chosen.to(w.device)]).to(dtype)
    return expanded


def expand_activations(x: Tensor, expansion: Expansion, spec: SmtSpec, groups: int = 1) -> Tensor:
    """The activations that `expand_weights` wants to meet.

    Args:
        x: uint8 (N, G*C, H, W), or int8 for the one operand that sends x as it is.

    Returns:
        int16 (N, G*width, H, W): for each group what its expansion says; 0..255, or 256 if not spec.saturate.
        Channels-last where x is.
    """
    images, total, height, width = x.shape
    a = x.to(torch.int16).reshape(images, groups, total // groups, height, width)
    if expansion.identity:
        return a.flatten(1, 2)
    sent = _sendable(a, spec)
    part, nonzero = total // groups // spec.threads, (a != 0).to(torch.int16)
    active = [torch.roll(nonzero, -r * part, 2) for r in range(1, spec.threads)]
    out = []
    for operand, chosen, _, _ in expansion.places():
        none, one, more = (_pick(sent[value], chosen) for value in operand.values)
        n = torch.zeros_like(none)
        for bit, partner in enumerate(active):
            if operand.pattern >> bit & 1:
                n = n + _pick(partner, chosen)
        out.append(torch.where(n == 0, none, torch.where(n == 1, one, more)))
    out.append(a.new_zeros(images, groups, expansion.padding, height, width))
    expanded = torch.cat(out, 2).reshape(images, groups * expansion.width, height, width)
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return expanded.contiguous(memory_format=layout)


def _sendable(a: Tensor, spec: SmtSpec) -> dict[Value, Tensor]:
    wide = a > LARGEST_NARROW_ACTIVATION
    return {
        Value.ZERO: torch.zeros_like(a),
        Value.EXACT: a,
        Value.REDUCED: reduce_activation(a, spec.rounding, spec.saturate),
        Value.NARROW: a * ~wide,
        Value.WIDE: a * wide,
    }


def _pick(a: Tensor, chosen: Tensor | None) -> Tensor:
    """Channels of (N, G, C, H, W)."""
    return a if chosen is None else a.index_select(2, chosen)
