"""NB-SMT as an ordinary convolution of more channels (docs/nbsmt.md derives it): a form for any device, in plain torch.

Each pattern becomes one or two more input channels per channel, and every weight goes into the channels of its own
pattern. Rare patterns hold few weights: theirs keep only the channels that have any.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import LARGEST_NARROW_ACTIVATION, reduce_activation
from bnrecal.nbsmt.decompose.operands import ACTIVATION, Operand, operands_of, weight_for, weight_parts, weight_patterns
from bnrecal.nbsmt.policies.builtin import Value
from bnrecal.nbsmt.spec import SmtSpec

# Picking pays for operands of which at most this share of channels has a weight.
DENSE = 0.6
# Channels that oneDNN takes at a time. Of more than 32 blocks it makes larger ones that divide their number: one with
# a large prime factor takes several times as long.
BLOCK, FEW_BLOCKS, SMOOTH = 64, 32, (2, 3, 5, 7, 11, 13)


@dataclass(frozen=True, eq=False)
class Expansion:
    """The channels that one group becomes: the whole operands, the picked ones, then zeros up to the width.

    Attributes:
        whole: operands of `channels` channels each.
        picked: operands of which only some channels have a weight, with these channels (int64).
        width: channels of the expanded group.
    """

    channels: int
    whole: tuple[Operand, ...]
    picked: tuple[tuple[Operand, Tensor], ...]
    width: int

    @property
    def identity(self) -> bool:
        """True where it is the activations as they are."""
        return self.whole == (ACTIVATION,) and not self.picked

    @property
    def padding(self) -> int:
        """Zero channels at the end."""
        return self.width - self.channels * len(self.whole) - sum(len(chosen) for _, chosen in self.picked)

    def places(self) -> Iterator[tuple[Operand, Tensor | None, int, int]]:
        """Yield every operand, its channels (None: all of them), and where they begin and end."""
        start = 0
        for operand in self.whole:
            yield operand, None, start, start + self.channels
            start += self.channels
        for operand, chosen in self.picked:
            yield operand, chosen, start, start + len(chosen)
            start += len(chosen)


def _operand_weights(w: Tensor, spec: SmtSpec) -> Iterator[tuple[Operand, Tensor]]:
    """Yield every operand with the weights that multiply it, shaped as w; an operand may come again with others."""
    parts = weight_parts(w, spec)
    patterns = weight_patterns(w, spec)
    for pattern in torch.unique(patterns).tolist():
        where = patterns == pattern
        for operand, names in operands_of(pattern, spec).items():
            yield operand, weight_for(parts, names) * where


def plan_expansion(w: Tensor, spec: SmtSpec, device: torch.device | None = None) -> Expansion:
    """Return the operands that the weights need.

    Args:
        w: int8 (O, C, kh, kw) with C a multiple of spec.threads; C counts one group's channels.
        device: where activations will be; w's by default.
    """
    channels = w.shape[1]
    as_is = Expansion(channels, (ACTIVATION,), (), channels)
    if spec.threads == 1:
        return as_is
    used: dict[Operand, Tensor] = {}  # bool (C,), the channels in which some weight multiplies the operand
    for operand, weight in _operand_weights(w, spec):
        here = weight.ne(0).flatten(2).any(2).any(0)
        used[operand] = used[operand] | here if operand in used else here
    operands = sorted(operand for operand, channel in used.items() if channel.any())
    if not operands:
        return as_is
    plain = Expansion(channels, tuple(operands), (), channels * len(operands))
    picked = [
        (o, used[o].nonzero()[:, 0].to(device or w.device)) for o in operands if int(used[o].sum()) <= DENSE * channels
    ]
    few = {operand for operand, _ in picked}
    whole = tuple(operand for operand in operands if operand not in few)
    width = channels * len(whole) + sum(len(chosen) for _, chosen in picked)
    compact = Expansion(channels, whole, tuple(picked), _quick_width(width))
    return compact if compact.width < plain.width else plain


def _quick_width(width: int) -> int:
    """Return the next number of channels that oneDNN is quick at."""
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
    """Return the weights that multiply the operands of their expansion.

    Returns:
        (O, width, kh, kw): int8, but int16 where spec.saturate is off and +128 possible.
    """
    dtype = torch.int8 if spec.saturate else torch.int16
    expanded = torch.zeros(w.shape[0], expansion.width, *w.shape[2:], dtype=dtype, device=w.device)
    places = {operand: (chosen, start, end) for operand, chosen, start, end in expansion.places()}
    for operand, weight in _operand_weights(w, spec):
        if operand in places:  # the others have no weight but zero
            chosen, start, end = places[operand]
            # What several parts of one weight add up to is within the format, whatever overflows on the way.
            expanded[:, start:end] += (weight if chosen is None else weight[:, chosen.to(w.device)]).to(dtype)
    return expanded


def expand_activations(x: Tensor, expansion: Expansion, spec: SmtSpec, groups: int = 1) -> Tensor:
    """Return the operands that `expand_weights` multiplies.

    Args:
        x: uint8 (N, G*C, H, W), or int8 for the one operand that is x itself.

    Returns:
        int16 (N, G*width, H, W): for each group what its expansion says; 0..255, or 256 if not spec.saturate.
        Channels-last where x is.
    """
    images, total, height, width = x.shape
    a = x.to(torch.int16).reshape(images, groups, total // groups, height, width)
    if expansion.identity:
        return a.flatten(1, 2)
    values = _values(a, spec)
    part = total // groups // spec.threads
    nonzero = (a != 0).to(torch.int16)
    active = [torch.roll(nonzero, -r * part, 2) for r in range(1, spec.threads)]
    out = []
    for operand, chosen, _, _ in expansion.places():
        none, one, more = [_pick(values[value], chosen) for value in operand.values]
        n = torch.zeros_like(none)
        for bit, partner in enumerate(active):
            if operand.pattern >> bit & 1:
                n = n + _pick(partner, chosen)
        out.append(torch.where(n == 0, none, torch.where(n == 1, one, more)))
    out.append(a.new_zeros(images, groups, expansion.padding, height, width))
    expanded = torch.cat(out, 2).reshape(images, groups * expansion.width, height, width)
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return expanded.contiguous(memory_format=layout)


def _values(a: Tensor, spec: SmtSpec) -> dict[Value, Tensor]:
    """Return every `Value` of the activations, shaped as a."""
    is_narrow = a <= LARGEST_NARROW_ACTIVATION
    zero = torch.zeros_like(a)
    reduced = reduce_activation(a, spec.rounding, spec.saturate)

    def by_width(narrow: Tensor, wide: Tensor) -> Tensor:
        return torch.where(is_narrow, narrow, wide)

    return {value: value.of(zero, a, reduced, by_width) for value in Value}


def _pick(a: Tensor, chosen: Tensor | None) -> Tensor:
    """Return channels of (N, G, C, H, W)."""
    return a if chosen is None else a.index_select(2, chosen)
