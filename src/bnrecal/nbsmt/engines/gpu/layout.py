"""Where the expanded channels of a layer lie in memory, and its weights in the same order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnrecal.nbsmt.decompose.expansion import expand_weights, plan_expansion
from bnrecal.nbsmt.decompose.operands import Operand, fold_taps
from bnrecal.nbsmt.spec import SmtSpec

# Groups are put together until they fill this many channels: one tensor-core instruction takes 32, and a group of 4
# alone would waste 28. Their weights become block-diagonal.
BUNDLED = 128
# The GEMM takes 128, 64 or 32 channels per step. A layer is padded to the largest of these that adds at most an eighth.
STEPS, TOLERATED = (128, 64, 32), 1.125
# Bytes that a GPU's thread can store at once.
VECTORS = (16, 8, 4, 1)
# The bits by which `kernels` selects: activations up to 15, those above as they are, those above reduced.
NARROW_BITS = {"0": 0, "a": 1, "r": 1}  # r(a) is a there
WIDE_BITS = {"0": 0, "a": 2, "r": 4}


@dataclass(frozen=True, eq=False)
class ExpandedLayout:
    """The layout of one layer's expanded activations; channels of one pixel lie bundle by bundle.

    Attributes:
        columns: of a group before expansion: its channels, or where they do not divide by the threads the padded
            rows of im2col.
        operands: int32, the whole operands as `code_of` gives them. Operand i of column c of the bundle's group b lies
            at b * width + i * columns + c.
        sources: int32 (3, threads, gathered), for channels that are gathered one by one and after each its partners:
            the channel of the input (-1: there is none), row and column of its tap.
        codes, places: int32 (gathered,): their operands' codes, and where they go in 0..total - 1.
        width: expanded channels of a group. bundle: groups in a bundle. depth: channels of a bundle, padded.
    """

    threads: int
    groups: int
    columns: int
    operands: Tensor
    sources: Tensor
    codes: Tensor
    places: Tensor
    width: int
    bundle: int
    depth: int

    @property
    def bundles(self) -> int:
        return self.groups // self.bundle

    @property
    def total(self) -> int:
        """Channels of one pixel."""
        return self.bundles * self.depth

    @property
    def vector(self) -> int:
        """Channels that the first kernel takes at a time: so many lie side by side before and after the expansion."""
        part = self.columns // self.threads
        return next(n for n in VECTORS if part % n == 0 and (self.bundle == 1 or self.width % n == 0))


def code_of(operand: Operand) -> int:
    """The operand in 12 bits that `kernels` takes."""
    none, one, more = [NARROW_BITS[value.narrow] | WIDE_BITS[value.wide] for value in operand.values]
    return operand.pattern | none << 3 | one << 6 | more << 9


def lay_out(weight: Tensor, spec: SmtSpec, groups: int, device: torch.device) -> tuple[ExpandedLayout, Tensor]:
    """The layout that these weights need, and the weights in it.

    Args:
        weight: int8 (O, C / groups, kh, kw); spec.saturate must be on, or operands leave 8 bits.

    Returns:
        The layout, and int8 (O, taps, depth): taps of the kernel, or 1 where the columns are im2col's.
    """
    folded = fold_taps(weight.to(device), spec.threads)
    expansion = plan_expansion(folded, spec)
    by_columns = folded.shape[1:] != weight.shape[1:]
    whole = [] if by_columns else list(expansion.whole)
    picked = [place for place in expansion.places() if by_columns or place[1] is not None]
    width = max((end for *_, end in expansion.places()), default=1)
    columns = folded.shape[1]
    bundle = max(b for b in range(1, groups + 1) if groups % b == 0 and (b == 1 or b * width <= BUNDLED))
    depth = _padded(bundle * width)
    chosen: list[Tensor] = []
    codes: list[Tensor] = []
    places: list[Tensor] = []
    for operand, some, start, end in picked:
        chosen.append(torch.arange(columns) if some is None else some.cpu())
        codes.append(torch.full((end - start,), code_of(operand)))
        places.append(torch.arange(start, end))
    group = torch.arange(groups)[:, None]
    first = group // bundle * depth + group % bundle * width
    layout = ExpandedLayout(
        threads=spec.threads,
        groups=groups,
        columns=columns,
        operands=_table(torch.tensor([code_of(operand) for operand in whole]), device),
        sources=_sources(_joined(chosen), columns, spec.threads, weight, groups).to(device, torch.int32),
        codes=_table(_joined(codes).expand(groups, -1), device),
        places=_table(first + _joined(places), device),
        width=width,
        bundle=bundle,
        depth=depth,
    )
    expanded = expand_weights(folded, expansion, spec)[:, :width]
    return layout, _block_diagonal(expanded, layout)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _sources(chosen: Tensor, columns: int, threads: int, weight: Tensor, groups: int) -> Tensor:
    """Return `sources` of `ExpandedLayout`, int64, for these columns of every group."""
    per_group = weight.shape[1]
    taps = 1 if columns == per_group else weight[0, 0].numel()
    partners = torch.arange(threads)[:, None, None] * (columns // threads)
    column = (chosen + partners) % columns  # (threads, 1, chosen)
    channel = torch.arange(groups)[:, None] * per_group + column // taps
    channel = torch.where(column < per_group * taps, channel, -1)
    tap = (column % taps).expand_as(channel)
    kernel_width = weight.shape[3]
    return torch.stack([channel, tap // kernel_width, tap % kernel_width]).flatten(2)


def _table(values: Tensor, device: torch.device) -> Tensor:
    return values.flatten().to(device, torch.int32)


def _padded(channels: int) -> int:
    step = next((s for s in STEPS if -(-channels // s) * s <= TOLERATED * channels), STEPS[-1])
    return -(-channels // step) * step


def _block_diagonal(w: Tensor, layout: ExpandedLayout) -> Tensor:
    """(O, width, kh, kw) to (O, kh * kw, depth): each filter's weights where the channels of its group lie."""
    filters = w.shape[0]
    rows = w.flatten(2).transpose(1, 2)  # (O, taps, width)
    packed = torch.zeros(filters, rows.shape[1], layout.depth, dtype=torch.int8, device=w.device)
    if filters == 0:
        return packed
    of_bundle = torch.arange(filters, device=w.device) // (filters // layout.groups) % layout.bundle
    for b in range(layout.bundle):
        own = of_bundle == b
        packed[own, :, b * layout.width : (b + 1) * layout.width] = rows[own]
    return packed
