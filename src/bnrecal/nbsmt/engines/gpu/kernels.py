"""The Triton kernels of the GPU engine.

Shapes are channels-last. N images, H x W pixels, C channels; E expanded channels, of which each bundle of groups has
`depth`; O filters. Tensor-core instructions multiply signed bytes alone, so an unsigned activation a travels as
a - 128 and the GEMM adds 128 * (sum of the filter's weights) at its end. The border is written out, as the
activation 0, so that the GEMM's loads need no masks.

An operand of the expansion is a code of 12 bits: which partners count (3 bits), then the operand while 0, 1, and 2 or
more of them are active (3 bits each, an `builtin.Value`).
"""

import triton
import triton.language as tl


@triton.jit
def _levels(x, keep, x_inverse, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr):
    """Activations at these addresses as int32: quantized on the way, or integers already. 0 where not `keep`."""
    if QUANTIZE:
        steps = tl.load(x, mask=keep, other=0.0) * x_inverse
        steps = tl.where(steps == steps, steps, 0.0)  # NaN
        lowest: tl.constexpr = -128.0 if SIGNED else 0.0
        steps = tl.minimum(tl.maximum(steps, lowest), lowest + 255.0)
        # float32 numbers of this size are whole: adding it rounds half to even
        levels = ((steps + 12582912.0) - 12582912.0).to(tl.int32)
    else:
        levels = tl.load(x, mask=keep, other=0).to(tl.int32)
    return levels


@triton.jit
def _reduced(a, HALF_EVEN: tl.constexpr):
    """r(a) of int32 a in 0..255, saturated."""
    if HALF_EVEN:  # noqa: SIM108
        multiple = (a + 7 + ((a >> 4) & 1)) >> 4 << 4
    else:
        multiple = a >> 4 << 4
    return tl.where(a <= 15, a, tl.minimum(multiple, 240))


@triton.jit
def _operand(value: tl.constexpr, a, reduced):
    """Return the operand that `builtin.Value` number `value` stands for."""
    if value == 1:
        selected = a
    elif value == 2:
        selected = reduced
    elif value == 3:
        selected = tl.where(a <= 15, a, 0)
    elif value == 4:
        selected = tl.where(a <= 15, 0, a)
    else:
        selected = a * 0
    return selected


@triton.jit
def _store_operand(y, keep, a, reduced, p1, p2, p3, CODE: tl.constexpr, OFFSET: tl.constexpr):
    """Store one operand of the activations a, given which partners are active (0 or 1)."""
    active = a * 0
    if CODE & 1:
        active += p1
    if CODE & 2:
        active += p2
    if CODE & 4:
        active += p3
    none = _operand((CODE >> 3) & 7, a, reduced)
    one = _operand((CODE >> 6) & 7, a, reduced)
    more = _operand((CODE >> 9) & 7, a, reduced)
    selected = tl.where(active == 0, none, tl.where(active == 1, one, more))
    tl.store(y, (selected - OFFSET).to(tl.int8), mask=keep)


@triton.jit
def _store_operands(
    y, keep, a, p1, p2, p3, columns, OPERANDS: tl.constexpr, COUNT: tl.constexpr, HALF_EVEN: tl.constexpr,
    OFFSET: tl.constexpr,
):  # fmt: skip
    """Store every whole operand of one thread's activations."""
    reduced = _reduced(a, HALF_EVEN)
    for i in tl.static_range(COUNT):
        _store_operand(y + i * columns, keep, a, reduced, p1, p2, p3, (OPERANDS >> (12 * i)) & 4095, OFFSET)


@triton.jit
def _expand_whole(
    x, y, real, inside_pixel, block, per_part, columns, groups, width, bundle, depth, x_inverse,
    T: tl.constexpr, OPERANDS: tl.constexpr, COUNT: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
    HALF_EVEN: tl.constexpr, OFFSET: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Read one channel of every thread, BC of each at a time, and write all whole operands of them."""
    q = block * BC + tl.arange(0, BC)[None, :]
    keep = real & (q < groups * per_part)
    group, c = q // per_part, q % per_part
    inside = keep & inside_pixel
    x_own = x + group * columns + c
    y_own = y + (group // bundle * depth + group % bundle * width + c)
    a0 = _levels(x_own, inside, x_inverse, QUANTIZE, SIGNED)
    if T == 1:
        _store_operands(y_own, keep, a0, a0, a0, a0, columns, OPERANDS, COUNT, HALF_EVEN, OFFSET)
    elif T == 2:
        a1 = _levels(x_own + per_part, inside, x_inverse, QUANTIZE, SIGNED)
        z0 = (a0 != 0).to(tl.int32)
        z1 = (a1 != 0).to(tl.int32)
        _store_operands(y_own, keep, a0, z1, z1, z1, columns, OPERANDS, COUNT, HALF_EVEN, OFFSET)
        _store_operands(y_own + per_part, keep, a1, z0, z0, z0, columns, OPERANDS, COUNT, HALF_EVEN, OFFSET)
    else:
        a1 = _levels(x_own + per_part, inside, x_inverse, QUANTIZE, SIGNED)
        a2 = _levels(x_own + 2 * per_part, inside, x_inverse, QUANTIZE, SIGNED)
        a3 = _levels(x_own + 3 * per_part, inside, x_inverse, QUANTIZE, SIGNED)
        z0 = (a0 != 0).to(tl.int32)
        z1 = (a1 != 0).to(tl.int32)
        z2 = (a2 != 0).to(tl.int32)
        z3 = (a3 != 0).to(tl.int32)
        _store_operands(y_own, keep, a0, z1, z2, z3, columns, OPERANDS, COUNT, HALF_EVEN, OFFSET)
        _store_operands(y_own + per_part, keep, a1, z2, z3, z0, columns, OPERANDS, COUNT, HALF_EVEN, OFFSET)
        _store_operands(y_own + 2 * per_part, keep, a2, z3, z0, z1, columns, OPERANDS, COUNT, HALF_EVEN, OFFSET)
        _store_operands(y_own + 3 * per_part, keep, a3, z0, z1, z2, columns, OPERANDS, COUNT, HALF_EVEN, OFFSET)


@triton.jit
def _column(
    x, row, col, keep, group, column, H, W, x_row, x_col, per_group, KW, DY, DX, x_inverse,
    TAPS: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
):  # fmt: skip
    """Activations of im2col's columns (of channels, if TAPS is 1): 0 in the border and beyond the last column."""
    inside = keep & (column < per_group * TAPS)
    channel = column
    if TAPS > 1:
        tap = column % TAPS
        row, col = row + tap // KW * DY, col + tap % KW * DX
        channel = column // TAPS
    inside = inside & (row >= 0) & (row < H) & (col >= 0) & (col < W)
    place = row.to(tl.int64) * x_row + col * x_col + group * per_group + channel
    return _levels(x + place, inside, x_inverse, QUANTIZE, SIGNED)


@triton.jit
def _expand_gathered(
    x, y, real, row, col, block, places, sources, codes, gathered, H, W, x_row, x_col, per_group, columns, KW, DY, DX,
    x_inverse, T: tl.constexpr, TAPS: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
    HALF_EVEN: tl.constexpr, OFFSET: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Write BC channels that are listed one by one, with their partners looked up for each."""
    j = block * BC + tl.arange(0, BC)
    keep = real & (j < gathered)[None, :]
    j = tl.minimum(j, gathered - 1)
    source = tl.load(sources + j)[None, :]
    code = tl.load(codes + j)[None, :]
    group, column = source // columns, source % columns
    a = _column(x, row, col, keep, group, column, H, W, x_row, x_col, per_group, KW, DY, DX, x_inverse,
                TAPS, QUANTIZE, SIGNED)  # fmt: skip
    active = a * 0
    for r in tl.static_range(1, T):
        other = (column + r * (columns // T)) % columns
        partner = _column(x, row, col, keep, group, other, H, W, x_row, x_col, per_group, KW, DY, DX, x_inverse,
                          TAPS, QUANTIZE, SIGNED)  # fmt: skip
        active += (partner != 0).to(tl.int32) * ((code >> (r - 1)) & 1)
    value = (code >> (3 + 3 * tl.minimum(active, 2))) & 7
    selected = tl.where(value == 1, a, 0)
    selected = tl.where(value == 2, _reduced(a, HALF_EVEN), selected)
    selected = tl.where(((value == 3) & (a <= 15)) | ((value == 4) & (a > 15)), a, selected)
    tl.store(y + tl.load(places + j)[None, :], (selected - OFFSET).to(tl.int8), mask=keep)


@triton.jit
def quantize_expand(
    x, y, places, sources, codes, x_inverse, pixels, YH, YW, E, H, W, x_image, x_row, x_col, per_group, columns,
    groups, gathered, whole_blocks, width, bundle, depth, KW, SY, SX, PY, PX, DY, DX,
    T: tl.constexpr, TAPS: tl.constexpr, OPERANDS: tl.constexpr, COUNT: tl.constexpr, QUANTIZE: tl.constexpr,
    SIGNED: tl.constexpr, HALF_EVEN: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Activations (float32 or 8-bit) to the int8 channels that expanded weights multiply (`layout.ExpandedLayout`).

    Pixel (i, j) of the (YH, YW) written ones sees the input from (i * SY - PY, j * SX - PX) on. Programs of the first
    `whole_blocks` column blocks write whole operands, the others the channels listed in `sources` (group * columns +
    column) with their operands in `codes`, to `places` in 0..E-1.
    """
    OFFSET: tl.constexpr = 0 if SIGNED else 128
    p = tl.program_id(0) * BP + tl.arange(0, BP)[:, None]
    real = p < pixels
    p = tl.minimum(p, pixels - 1)
    row, col = p // YW % YH * SY - PY, p % YW * SX - PX
    x_image_base = x + (p // (YH * YW)).to(tl.int64) * x_image
    y_pixel = y + p.to(tl.int64) * E
    block = tl.program_id(1)
    if block < whole_blocks:
        inside = (row >= 0) & (row < H) & (col >= 0) & (col < W)
        x_pixel = x_image_base + (row.to(tl.int64) * x_row + col * x_col)
        _expand_whole(x_pixel, y_pixel, real, inside, block, columns // T, columns, groups, width, bundle, depth,
                      x_inverse, T, OPERANDS, COUNT, QUANTIZE, SIGNED, HALF_EVEN, OFFSET, BC)  # fmt: skip
    else:
        _expand_gathered(x_image_base, y_pixel, real, row, col, block - whole_blocks, places, sources, codes, gathered,
                         H, W, x_row, x_col, per_group, columns, KW, DY, DX, x_inverse, T, TAPS, QUANTIZE, SIGNED,
                         HALF_EVEN, OFFSET, BC)  # fmt: skip


@triton.jit
def _scaled(sums, scale, bias, o, keep, FLOAT: tl.constexpr, BIAS: tl.constexpr):
    """int32 sums (rows, filters) as they are, or times the filter's scale plus its bias."""
    result = sums
    if FLOAT:
        result = sums.to(tl.float32) * tl.load(scale + o, mask=keep, other=0.0)[None, :]
        if BIAS:
            result += tl.load(bias + o, mask=keep, other=0.0)[None, :]
    return result


@triton.jit
def _step(x_tile, w_tile, sums, t, steps, depth, E, XW, KW, DY, DX, BK: tl.constexpr):
    """Add step t of the GEMM: BK channels of one tap."""
    tap, c = t // steps, t % steps * BK
    a = tl.load(x_tile + ((tap // KW * DY * XW + tap % KW * DX) * E + c))
    b = tl.load(w_tile + (tap * depth + c))
    return tl.dot(a, b, sums, out_dtype=tl.int32)


@triton.jit(do_not_specialize=["tuning"])
def conv_int8(
    x, w, y, scale, bias, offset, rows, XH, XW, OH, OW, E, filters, bundles, depth, taps, KW, SY, SX, DY, DX,
    tuning,  # noqa: ARG001 (what a tile size was tuned for)
    FLOAT: tl.constexpr, BIAS: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """Implicit GEMM: x int8 (N, XH, XW, E), border included, with w int8 (bundles * filters, taps, depth).

    y: (N, OH, OW, bundles * filters), float32 or (not FLOAT) the int32 sums; rows = N * OH * OW. BK divides depth.
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
    result = _scaled(sums, scale, bias, o, there, FLOAT, BIAS)
    y_tile = y + m.to(tl.int64)[:, None] * (bundles * filters) + o[None, :]
    tl.store(y_tile, result, mask=(m < rows)[:, None] & there[None, :])


@triton.jit
def depthwise(
    x, w, y, scale, bias, x_inverse, rows, H, W, OH, OW, x_image, x_row, x_col, filters, multiplier, KW, SY, SX, PY,
    PX, DY, DX, TAPS: tl.constexpr, FLOAT: tl.constexpr, BIAS: tl.constexpr, QUANTIZE: tl.constexpr,
    SIGNED: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
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
        a = _levels(x + i.to(tl.int64) * x_row + j * x_col, inside, x_inverse, QUANTIZE, SIGNED)
        sums += a * tl.load(w + tap * filters + o, mask=there, other=0).to(tl.int32)[None, :]
    result = _scaled(sums, scale, bias, o, there, FLOAT, BIAS)
    y_tile = y + p.to(tl.int64)[:, None] * filters + o[None, :]
    tl.store(y_tile, result, mask=(p < rows)[:, None] & there[None, :])


@triton.jit
def trial(y, COUNT: tl.constexpr):
    """The least kernel there is: y[i] = 3 i, to see whether kernels can be started at all."""
    at = tl.arange(0, COUNT)
    tl.store(y + at, 3 * at)
