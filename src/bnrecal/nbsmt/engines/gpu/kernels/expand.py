"""The expansion: from activations to the channels that the expanded weights multiply.

An operand of the expansion is a code of 12 bits: which partners count (3 bits), then the operand while 0, 1, and 2 or
more of them are active (3 bits each: activations up to 15, those above as they are, those above reduced). Codes are
data, so that one compiled kernel serves every layer. The expansion works on 4 activations at a time, the bytes of an
int32 word, with the same operations as on one.
"""

import triton
import triton.language as tl

from bnrecal.nbsmt.engines.gpu.kernels.levels import load_levels


@triton.jit
def _is_active(x, keep, x_inverse, QUANTIZE: tl.constexpr):
    """Return whether the unsigned levels of the activations at these addresses are not 0."""
    if QUANTIZE:  # noqa: SIM108 (a half is rounded to 0, NaN becomes 0)
        active = tl.load(x, mask=keep, other=0.0) * x_inverse > 0.5
    else:
        active = tl.load(x, mask=keep, other=0) != 0
    return active


@triton.jit
def _reduced(a, HALF_EVEN: tl.constexpr):
    """r(a) of int32 a in 0..255, saturated."""
    if HALF_EVEN:  # noqa: SIM108
        multiple = (a + 7 + ((a >> 4) & 1)) >> 4 << 4
    else:
        multiple = a >> 4 << 4
    return tl.where(a <= 15, a, tl.minimum(multiple, 240))


@triton.jit
def _where_nonzero(words):
    """255 in the bytes of int32 words that are not 0, else 0."""
    LOW: tl.constexpr = 0x7F7F7F7F
    carried = ((words & LOW) + LOW) | words  # bit 7 of a byte: any bit of it
    return ((carried >> 7) & 0x01010101) * 255


@triton.jit
def _multiples(words, HALF_EVEN: tl.constexpr):
    """Bytes a of int32 words to the multiple of 16 that r(a) is where a > 15, saturated."""
    ONES: tl.constexpr = 0x01010101
    NIBBLES: tl.constexpr = 0x0F0F0F0F
    sixteens = (words >> 4) & NIBBLES
    if HALF_EVEN:
        up = (((words & NIBBLES) + 0x07070707 + (sixteens & ONES)) >> 4) & ONES
        full = ((sixteens + ONES) >> 4) & ONES  # 240 and more stay 240
        sixteens += up & ~full
    return sixteens << 4


@triton.jit
def _load_word(x, inside, x_inverse, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr):
    """Levels of 4 channels from the addresses x (LANES,) on, as the bytes of int32 words (LANES,)."""
    at = tl.arange(0, 4)
    levels = load_levels(x[:, None] + at[None, :], inside[:, None], x_inverse, QUANTIZE, SIGNED)
    return tl.sum((levels & 255) << (8 * at)[None, :], axis=1)


@triton.jit
def _load_words(x, inside, x_inverse, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr, VEC: tl.constexpr):
    """Levels of VEC channels from the addresses x (LANES,) on: int32 (LANES, VEC / 4) of 4, or (LANES, 1) of one."""
    if VEC == 1:
        words = load_levels(x[:, None], inside[:, None], x_inverse, QUANTIZE, SIGNED) & 255
    elif VEC == 4:
        words = _load_word(x, inside, x_inverse, QUANTIZE, SIGNED)[:, None]
    elif VEC == 8:
        first = _load_word(x, inside, x_inverse, QUANTIZE, SIGNED)
        words = tl.join(first, _load_word(x + 4, inside, x_inverse, QUANTIZE, SIGNED))
    else:
        # A lane keeps what it loads in its own registers: no two lanes exchange anything.
        first = _load_word(x, inside, x_inverse, QUANTIZE, SIGNED)
        second = _load_word(x + 4, inside, x_inverse, QUANTIZE, SIGNED)
        third = _load_word(x + 8, inside, x_inverse, QUANTIZE, SIGNED)
        fourth = _load_word(x + 12, inside, x_inverse, QUANTIZE, SIGNED)
        pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
        words = tl.reshape(pairs, (first.shape[0], 4))
    return words


@triton.jit
def _split(words, HALF_EVEN: tl.constexpr):
    """Words of levels as those up to 15, those above, these reduced, and 255 where a level is not 0."""
    above = _where_nonzero(words & -0x0F0F0F10)  # 0xF0F0F0F0
    return words & ~above, words & above, _multiples(words, HALF_EVEN) & above, _where_nonzero(words)


@triton.jit
def _bit(code, place):
    """All bits of an int32 where this bit of `code` is set, else none."""
    return -((code >> place) & 1)


@triton.jit
def _value(low, high, reduced, code, place):
    """Words of the operands that the 3 bits of `code` from this place on select."""
    return (low & _bit(code, place)) | (high & _bit(code, place + 1)) | (reduced & _bit(code, place + 2))


@triton.jit
def _operand(low, high, reduced, p1, p2, p3, code, T: tl.constexpr):
    """Words of one operand; p1 to p3 are 255 where the activation of this partner is not 0."""
    some = p1 & _bit(code, 0)
    several = some & 0
    if T > 2:
        second = p2 & _bit(code, 1)
        third = p3 & _bit(code, 2)
        several = (some & second) | (some & third) | (second & third)
        some = some | second | third
    none = _value(low, high, reduced, code, 3) & ~some
    one = _value(low, high, reduced, code, 6) & some & ~several
    return none | one | (_value(low, high, reduced, code, 9) & several)


@triton.jit
def _store_words(y, y_words, vector, keep, words, SIGNED: tl.constexpr, VEC: tl.constexpr):
    """Store each lane's VEC levels as vector number `vector` (LANES,) of y; unsigned ones less 128."""
    if VEC == 1:
        offset: tl.constexpr = 0 if SIGNED else 128
        tl.store(y + vector[:, None], (words - offset).to(tl.int8), mask=keep[:, None])
    else:
        flip: tl.constexpr = 0 if SIGNED else -0x7F7F7F80  # 0x80808080, which takes 128 off every byte
        place = (vector * (VEC // 4))[:, None] + tl.arange(0, VEC // 4)[None, :]
        tl.store(y_words + place, words ^ flip, mask=keep[:, None])


@triton.jit
def _expand_whole(
    x, y, y_words, vector, part, columns, operands, count, keep, inside, x_inverse,
    T: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr, HALF_EVEN: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Read VEC channels of every thread, and write all whole operands of them.

    x: addresses of the first thread's channels. vector: number of the vector that its first operand goes to.
    part, columns: vectors of a thread, and of all threads.
    """
    a0 = _load_words(x, inside, x_inverse, QUANTIZE, SIGNED, VEC)
    if T == 1:
        _store_words(y, y_words, vector, keep, a0, SIGNED, VEC)
    elif T == 2:
        a1 = _load_words(x + part * VEC, inside, x_inverse, QUANTIZE, SIGNED, VEC)
        low0, high0, reduced0, z0 = _split(a0, HALF_EVEN)
        low1, high1, reduced1, z1 = _split(a1, HALF_EVEN)
        for i in range(count):
            code = tl.load(operands + i)
            first = vector + i * columns
            selected = _operand(low0, high0, reduced0, z1, z1, z1, code, T)
            _store_words(y, y_words, first, keep, selected, SIGNED, VEC)
            selected = _operand(low1, high1, reduced1, z0, z0, z0, code, T)
            _store_words(y, y_words, first + part, keep, selected, SIGNED, VEC)
    else:
        a1 = _load_words(x + part * VEC, inside, x_inverse, QUANTIZE, SIGNED, VEC)
        a2 = _load_words(x + 2 * part * VEC, inside, x_inverse, QUANTIZE, SIGNED, VEC)
        a3 = _load_words(x + 3 * part * VEC, inside, x_inverse, QUANTIZE, SIGNED, VEC)
        low0, high0, reduced0, z0 = _split(a0, HALF_EVEN)
        low1, high1, reduced1, z1 = _split(a1, HALF_EVEN)
        low2, high2, reduced2, z2 = _split(a2, HALF_EVEN)
        low3, high3, reduced3, z3 = _split(a3, HALF_EVEN)
        for i in range(count):
            code = tl.load(operands + i)
            first = vector + i * columns
            selected = _operand(low0, high0, reduced0, z1, z2, z3, code, T)
            _store_words(y, y_words, first, keep, selected, SIGNED, VEC)
            selected = _operand(low1, high1, reduced1, z2, z3, z0, code, T)
            _store_words(y, y_words, first + part, keep, selected, SIGNED, VEC)
            selected = _operand(low2, high2, reduced2, z3, z0, z1, code, T)
            _store_words(y, y_words, first + 2 * part, keep, selected, SIGNED, VEC)
            selected = _operand(low3, high3, reduced3, z0, z1, z2, code, T)
            _store_words(y, y_words, first + 3 * part, keep, selected, SIGNED, VEC)


@triton.jit
def _expand_lanes(
    x, y, y_words, operands, p, q, x_inverse, pixels, YH, YW, E, H, W, x_image, x_row, x_col, columns, count, width,
    bundle, depth, SY, SX, PY, PX, T: tl.constexpr, VEC: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
    HALF_EVEN: tl.constexpr,
):  # fmt: skip
    """Write all whole operands of vector q (LANES,) of every thread of pixel p (LANES,)."""
    part = columns // T // VEC
    keep = p < pixels
    p = tl.minimum(p, pixels - 1)
    image, row, col = _pixel_of(p, YH, YW)
    row, col = row * SY - PY, col * SX - PX
    inside = keep & (row >= 0) & (row < H) & (col >= 0) & (col < W)
    group, c = q // part, q % part
    # numbers of vectors, so that the compiler sees what divides the addresses
    pixel = image.to(tl.int64) * (x_image // VEC) + row.to(tl.int64) * (x_row // VEC) + col * (x_col // VEC)
    x += (pixel + group * (columns // VEC) + c) * VEC
    channel = group // bundle * (depth // VEC) + group % bundle * (width // VEC) + c
    vector = p.to(tl.int64) * (E // VEC) + channel
    _expand_whole(x, y, y_words, vector, part, columns // VEC, operands, count, keep, inside, x_inverse,
                  T, QUANTIZE, SIGNED, HALF_EVEN, VEC)  # fmt: skip


@triton.jit
def _pixel_of(p, YH, YW):
    """Image, row and column of pixel p."""
    line = p // YW
    image = line // YH
    return image, line - image * YH, p - line * YW


@triton.jit
def _locate(x_pixel, entry, stride, row, col, keep, H, W, x_row, x_col, DY, DX, TAPS: tl.constexpr):
    """Addresses of the activations that `Layout.sources` says from `entry` on, and which are there.

    x_pixel: addresses of the pixels (row, col). keep: without the pixels outside the image, if there is one tap.
    """
    channel = tl.load(entry)[None, :]
    inside = keep
    if TAPS > 1:
        down = tl.load(entry + stride)[None, :] * DY
        right = tl.load(entry + 2 * stride)[None, :] * DX
        inside = keep & (channel >= 0) & (row + down >= 0) & (row + down < H) & (col + right >= 0) & (col + right < W)
        channel = down.to(tl.int64) * x_row + right * x_col + channel
    return x_pixel + channel, inside


@triton.jit
def _expand_gathered(
    x, y, p, block, places, sources, codes, x_inverse, pixels, YH, YW, E, H, W, x_image, x_row, x_col, gathered,
    SY, SX, PY, PX, DY, DX, T: tl.constexpr, TAPS: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
    HALF_EVEN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Write BC channels of pixels p (BP, 1) that are gathered one by one, with their partners looked up for each."""
    OFFSET: tl.constexpr = 0 if SIGNED else 128
    j = block * BC + tl.arange(0, BC)
    keep = (p < pixels) & (j < gathered)[None, :]
    image, row, col = _pixel_of(tl.minimum(p, pixels - 1), YH, YW)
    row, col = row * SY - PY, col * SX - PX
    x += image.to(tl.int64) * x_image + row.to(tl.int64) * x_row + col * x_col
    there = keep
    if TAPS == 1:
        there = keep & (row >= 0) & (row < H) & (col >= 0) & (col < W)
    j = tl.minimum(j, gathered - 1)
    code = tl.load(codes + j)[None, :]
    stride = T * gathered
    at, inside = _locate(x, sources + j, stride, row, col, there, H, W, x_row, x_col, DY, DX, TAPS)
    a = load_levels(at, inside, x_inverse, QUANTIZE, SIGNED)
    active = a * 0
    for r in tl.static_range(1, T):
        counts = there & (((code >> (r - 1)) & 1) != 0)
        entry = sources + r * gathered + j
        at, inside = _locate(x, entry, stride, row, col, counts, H, W, x_row, x_col, DY, DX, TAPS)
        active += _is_active(at, inside, x_inverse, QUANTIZE).to(tl.int32)
    value = code >> (3 + 3 * tl.minimum(active, 2))
    above = (a & _bit(value, 1)) | (_reduced(a, HALF_EVEN) & _bit(value, 2))
    selected = tl.where(a <= 15, a & _bit(value, 0), above)
    y += tl.minimum(p, pixels - 1).to(tl.int64) * E
    tl.store(y + tl.load(places + j)[None, :], (selected - OFFSET).to(tl.int8), mask=keep)


@triton.jit(do_not_specialize=[
    "pixels", "YH", "YW", "E", "H", "W", "x_image", "x_row", "x_col", "columns", "groups", "count", "gathered",
    "width", "bundle", "depth", "SY", "SX", "PY", "PX", "DY", "DX",
])  # fmt: skip
def quantize_expand(
    x, y, y_words, operands, places, sources, codes, x_inverse, pixels, YH, YW, E, H, W, x_image, x_row, x_col,
    columns, groups, count, gathered, width, bundle, depth, SY, SX, PY, PX, DY, DX,
    T: tl.constexpr, TAPS: tl.constexpr, VEC: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
    HALF_EVEN: tl.constexpr, LANES: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Float32 activations (or 8-bit ones) to the int8 channels that the expanded weights take (`ExpandedLayout`).

    Pixel (i, j) of the (YH, YW) written ones sees the input from (i * SY - PY, j * SX - PX) on. VEC divides the
    channels of a thread and all addresses; y_words is y as int32. Programs in a row share LANES pixels: first those
    that write the `count` whole operands, a lane VEC channels of each thread; then those that write the channels in
    `sources` with their operands in `codes` to `places` in 0..E-1, BP pixels and BC of them at a time.
    """
    vectors = groups * (columns // T // VEC)
    whole = tl.where(count > 0, vectors, 0)
    blocks = tl.cdiv(gathered, BC)
    in_row = whole + LANES // BP * blocks
    first = tl.program_id(0) // in_row * LANES
    program = tl.program_id(0) % in_row
    if program < whole:
        lane = program * LANES + tl.arange(0, LANES)
        _expand_lanes(x, y, y_words, operands, first + lane // vectors, lane % vectors, x_inverse, pixels, YH, YW, E,
                      H, W, x_image, x_row, x_col, columns, count, width, bundle, depth, SY, SX, PY, PX,
                      T, VEC, QUANTIZE, SIGNED, HALF_EVEN)  # fmt: skip
    else:
        block = program - whole
        pixel = first + block // blocks * BP + tl.arange(0, BP)[:, None]
        _expand_gathered(x, y, pixel, block % blocks, places, sources, codes, x_inverse, pixels, YH, YW, E, H, W,
                         x_image, x_row, x_col, gathered, SY, SX, PY, PX, DY, DX,
                         T, TAPS, QUANTIZE, SIGNED, HALF_EVEN, BC)  # fmt: skip
