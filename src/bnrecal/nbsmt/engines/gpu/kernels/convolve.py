"""The convolutions, with what follows them if asked: a GEMM of expanded activations and weights, and depthwise."""

import triton
import triton.language as tl

from bnrecal.nbsmt.engines.gpu.kernels.conv_end import store_ended
from bnrecal.nbsmt.engines.gpu.kernels.levels import load_levels


@triton.jit
def _store(
    y, sums, at, o, there, keep, scale, bias, alpha, beta, residual, lowest, highest, level_inverse,
    FLOAT: tl.constexpr, BIAS: tl.constexpr, END: tl.constexpr, RESIDUAL: tl.constexpr, LEVELS: tl.constexpr,
    LEVELS_SIGNED: tl.constexpr,
):  # fmt: skip
    """Store int32 sums (rows, filters) at the places `at`: as they are; or (FLOAT) times the filter's scale plus its
    bias, each step rounded; or (END) what follows the convolution made of that.
    """
    if FLOAT:
        x = sums.to(tl.float32) * tl.load(scale + o, mask=there, other=0.0)[None, :]
        if BIAS:
            x += tl.load(bias + o, mask=there, other=0.0)[None, :]
        if END:
            a = tl.load(alpha + o, mask=there, other=0.0)[None, :]
            b = tl.load(beta + o, mask=there, other=0.0)[None, :]
            store_ended(y + at, x, a, b, residual + at, keep, lowest, highest, level_inverse,
                        RESIDUAL, LEVELS, LEVELS_SIGNED)  # fmt: skip
        else:
            tl.store(y + at, x, mask=keep)
    else:
        tl.store(y + at, sums, mask=keep)


@triton.jit
def _step(x_tile, w_tile, sums, t, steps, depth, E, XW, KW, DY, DX, BK: tl.constexpr):
    """Add step t of the GEMM: BK channels of one tap."""
    tap, c = t // steps, t % steps * BK
    a = tl.load(x_tile + ((tap // KW * DY * XW + tap % KW * DX) * E + c))
    b = tl.load(w_tile + (tap * depth + c))
    return tl.dot(a, b, sums, out_dtype=tl.int32)


@triton.jit(do_not_specialize=["rows", "XH", "XW", "OH", "OW", "bundles", "taps", "KW", "SY", "SX", "DY", "DX"])
def conv_int8(
    x, w, y, offset, scale, bias, alpha, beta, residual, lowest, highest, level_inverse,
    rows, XH, XW, OH, OW, E, filters, bundles, depth, taps, KW, SY, SX, DY, DX,
    FLOAT: tl.constexpr, BIAS: tl.constexpr, END: tl.constexpr, RESIDUAL: tl.constexpr, LEVELS: tl.constexpr,
    LEVELS_SIGNED: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Implicit GEMM: x int8 (N, XH, XW, E), border included, with w int8 (bundles * filters, taps, depth).

    y: (N, OH, OW, bundles * filters), the int32 sums or what `_store` makes of them; rows = N * OH * OW. BK divides
    depth.
    SPLIT: steps of BK products after which the sum leaves the tensor core's saturating accumulator; 0: never needed.
    """
    tiles = bundles * tl.cdiv(filters, BN)
    m = (tl.program_id(0) // tiles) * BM + tl.arange(0, BM)
    tile = tl.program_id(0) % tiles  # neighbours read the same activations
    group = tile % bundles
    n = (tile // bundles) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    r = tl.minimum(m, rows - 1)
    first = ((r // (OH * OW) * XH + r // OW % OH * SY) * XW + r % OW * SX).to(tl.int64) * E + group * depth
    x_tile = x + first[:, None] + k[None, :]
    w_tile = w + ((group * filters + tl.minimum(n, filters - 1)) * (taps * depth))[None, :] + k[:, None]
    steps = depth // BK
    sums = tl.zeros((BM, BN), dtype=tl.int32)
    if SPLIT == 0:
        for t in range(taps * steps):
            sums = _step(x_tile, w_tile, sums, t, steps, depth, E, XW, KW, DY, DX, BK)
    else:
        for start in range(0, taps * steps, SPLIT):
            partial = tl.zeros((BM, BN), dtype=tl.int32)
            for t in range(start, tl.minimum(start + SPLIT, taps * steps)):
                partial = _step(x_tile, w_tile, partial, t, steps, depth, E, XW, KW, DY, DX, BK)
            sums += partial
    o, there = group * filters + n, n < filters
    sums += tl.load(offset + o, mask=there, other=0)[None, :]
    at = m.to(tl.int64)[:, None] * (bundles * filters) + o[None, :]
    _store(y, sums, at, o, there, (m < rows)[:, None] & there[None, :], scale, bias, alpha, beta, residual, lowest,
           highest, level_inverse, FLOAT, BIAS, END, RESIDUAL, LEVELS, LEVELS_SIGNED)  # fmt: skip


@triton.jit(do_not_specialize=["rows", "H", "W", "OH", "OW", "KW", "SY", "SX", "PY", "PX", "DY", "DX"])
def depthwise(
    x, w, y, scale, bias, alpha, beta, residual, lowest, highest, level_inverse,
    x_inverse, rows, H, W, OH, OW, x_image, x_row, x_col, filters, multiplier, KW, SY, SX, PY, PX, DY, DX,
    FLOAT: tl.constexpr, BIAS: tl.constexpr, END: tl.constexpr, RESIDUAL: tl.constexpr, LEVELS: tl.constexpr,
    LEVELS_SIGNED: tl.constexpr, TAPS: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr, BP: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """One input channel a group, one thread: x as for `quantize_expand`, w int8 (TAPS, filters), y as of `conv_int8`.

    Filter o sees channel o // multiplier.
    """
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    o = tl.program_id(1) * BC + tl.arange(0, BC)
    r = tl.minimum(p, rows - 1)
    there = o < filters
    row, col = (r // OW % OH * SY - PY)[:, None], (r % OW * SX - PX)[:, None]
    x += (r // (OH * OW)).to(tl.int64)[:, None] * x_image + (o // multiplier)[None, :]
    sums = tl.zeros((BP, BC), dtype=tl.int32)
    for tap in range(TAPS):
        i, j = row + tap // KW * DY, col + tap % KW * DX
        inside = (i >= 0) & (i < H) & (j >= 0) & (j < W) & there[None, :]
        a = load_levels(x + i.to(tl.int64) * x_row + j * x_col, inside, x_inverse, QUANTIZE, SIGNED)
        sums += a * tl.load(w + tap * filters + o, mask=there, other=0).to(tl.int32)[None, :]
    at = p.to(tl.int64)[:, None] * filters + o[None, :]
    _store(y, sums, at, o, there, (p < rows)[:, None] & there[None, :], scale, bias, alpha, beta, residual, lowest,
           highest, level_inverse, FLOAT, BIAS, END, RESIDUAL, LEVELS, LEVELS_SIGNED)  # fmt: skip
