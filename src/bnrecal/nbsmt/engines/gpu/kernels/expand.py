"""The expansion: from activations to the channels that the expanded weights multiply.

An operand of the expansion is a code of 12 bits: which partners count (3 bits), then the operand while 0, 1, and 2 or
more of them are active (3 bits each: activations up to 15, those above as they are, those above reduced). Codes are
data, so that one compiled kernel serves every layer. The expansion works on 4 activations at a time, the bytes of an
int32 word, with the same operations as on one.
"""

import triton
import triton.language as tl

from bnrecal.nbsmt.engines.gpu.kernels.levels import load_levels

# The operands of the default policy, by their codes without the lowest 3 bits: a, a that becomes r(a) as soon as a
# partner is active, and r(a) while several are. They take a step where others take ten.
AS_IS: tl.constexpr = tl.constexpr(0b011_011_011)
REDUCED_BY_ONE: tl.constexpr = tl.constexpr(0b101_101_011)
REDUCED_AMONG_SEVERAL: tl.constexpr = tl.constexpr(0b101_000_000)


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
def _load_word(x, inside, x_inverse, SIGNED: tl.constexpr, ACTIVE: tl.constexpr):
    """The bytes of 4 float32 activations from the addresses x (LANES,) on, as int32 words (LANES,).

    ACTIVE: 255 where a level is not 0, instead of the levels.
    """
    place = tl.arange(0, 4)[None, :]
    if ACTIVE:
        active = _is_active(x[:, None] + place, inside[:, None], x_inverse, True)
        values = tl.where(active, 255, 0)
    else:
        values = load_levels(x[:, None] + place, inside[:, None], x_inverse, True, SIGNED) & 255
    return tl.sum(values << (8 * place), axis=1)


@triton.jit
def _load_words(
    x, inside, x_inverse, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr, VEC: tl.constexpr, ACTIVE: tl.constexpr
):
    """VEC bytes (`_load_word`) from the addresses x (LANES,) on: int32 (LANES, VEC / 4) of 4, or (LANES, 1) of one."""
    if VEC == 1:
        words = load_levels(x[:, None], inside[:, None], x_inverse, QUANTIZE, SIGNED) & 255
    elif not QUANTIZE:
        at = x.to(tl.pointer_type(tl.int32), bitcast=True)[:, None] + tl.arange(0, VEC // 4)[None, :]
        words = tl.load(at, mask=inside[:, None], other=0)
    elif VEC == 4:
        words = _load_word(x, inside, x_inverse, SIGNED, ACTIVE)[:, None]
    elif VEC == 8:
        first = _load_word(x, inside, x_inverse, SIGNED, ACTIVE)
        words = tl.join(first, _load_word(x + 4, inside, x_inverse, SIGNED, ACTIVE))
    else:
        # A lane keeps what it loads in its own registers: no two lanes exchange anything.
        first = _load_word(x, inside, x_inverse, SIGNED, ACTIVE)
        second = _load_word(x + 4, inside, x_inverse, SIGNED, ACTIVE)
        third = _load_word(x + 8, inside, x_inverse, SIGNED, ACTIVE)
        fourth = _load_word(x + 12, inside, x_inverse, SIGNED, ACTIVE)
        pairs = tl.join(tl.join(first, third), tl.join(second, fourth))
        words = tl.reshape(pairs, (first.shape[0], 4))
    if ACTIVE and (VEC == 1 or not QUANTIZE):
        words = _where_nonzero(words)
    return words


@triton.jit
def _bit(code, place):
    """All bits of an int32 where this bit of `code` is set, else none."""
    return -((code >> place) & 1)


@triton.jit
def _by_count(some, several, code, place):
    """All bits where the bit of `code` is set that counts: at this place, 3 or 6 on while 0, 1, or more are active."""
    one = (some & _bit(code, place + 3)) | (~some & _bit(code, place))
    return (several & _bit(code, place + 6)) | (~several & one)


@triton.jit
def _count(p1, p2, p3, code, T: tl.constexpr):
    """255 where some, and where several, of an operand's partners are active; p1 to p3: where each is."""
    some = p1 & _bit(code, 0)
    several = some & 0
    if T > 2:
        second = p2 & _bit(code, 1)
        third = p3 & _bit(code, 2)
        several = (some & second) | (some & third) | (second & third)
        some = some | second | third
    return some, several


@triton.jit
def _operand(a, above, reduced, some, several, code):
    """Words of one operand.

    a: levels. above: 255 where they are above 15. reduced: a up to 15, r(a) above.
    """
    kind = code >> 3
    if kind == REDUCED_BY_ONE:
        selected = (some & reduced) | (~some & a)
    elif kind == REDUCED_AMONG_SEVERAL:
        selected = several & reduced
    elif kind == AS_IS:
        selected = a
    else:
        as_is = _by_count(some, several, code, 4) & above | _by_count(some, several, code, 3) & ~above
        selected = (a & as_is) | (reduced & above & _by_count(some, several, code, 5))
    return selected


@triton.jit
def _store_words(y, vector, keep, words, SIGNED: tl.constexpr, VEC: tl.constexpr):
    """Store each lane's VEC levels as vector number `vector` (LANES,) of y; unsigned ones less 128."""
    if VEC == 1:
        offset: tl.constexpr = 0 if SIGNED else 128
        tl.store(y + vector[:, None], (words - offset).to(tl.int8), mask=keep[:, None])
    else:
        flip: tl.constexpr = 0 if SIGNED else -0x7F7F7F80  # 0x80808080, which takes 128 off every byte
        at = (y + vector * VEC).to(tl.pointer_type(tl.int32), bitcast=True)[:, None] + tl.arange(0, VEC // 4)[None, :]
        tl.store(at, words ^ flip, mask=keep[:, None])


@triton.jit
def _load_partner(
    x, channel, columns, inside, x_inverse, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr, VEC: tl.constexpr
):
    """255 where the activation of a partner is not 0. channel: number of its vector, which wraps at `columns`."""
    channel = tl.where(channel < columns, channel, channel - columns)
    return _load_words(x + channel * VEC, inside, x_inverse, QUANTIZE, SIGNED, VEC, True)


@triton.jit
def _expand_whole(
    x, y, vector, channel, columns, operands, count, keep, inside, x_inverse,
    T: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr, HALF_EVEN: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Read one vector of VEC channels, and of its partners whether they are 0, and write all whole operands of it.

    x: addresses of the group's first channel. vector: number of the vector that the first operand goes to.
    channel: number (LANES,) of the vector that is read. columns: vectors of the group.
    """
    a = _load_words(x + channel * VEC, inside, x_inverse, QUANTIZE, SIGNED, VEC, False)
    if T == 1:
        _store_words(y, vector, keep, a, SIGNED, VEC)
    else:
        above = _where_nonzero(a & -0x0F0F0F10)  # 0xF0F0F0F0: levels of 16 and more
        reduced = (_multiples(a, HALF_EVEN) & above) | (a & ~above)
        part = columns // T
        p1 = _load_partner(x, channel + part, columns, inside, x_inverse, QUANTIZE, SIGNED, VEC)
        p2 = p1
        p3 = p1
        if T > 2:
            p2 = _load_partner(x, channel + 2 * part, columns, inside, x_inverse, QUANTIZE, SIGNED, VEC)
            p3 = _load_partner(x, channel + 3 * part, columns, inside, x_inverse, QUANTIZE, SIGNED, VEC)
        counted = 0
        some = p1 & 0
        several = some
        for i in range(count):
            code = tl.load(operands + i)
            if code & 7 != counted:  # operands of the same partners follow one another
                some, several = _count(p1, p2, p3, code, T)
                counted = code & 7
            selected = _operand(a, above, reduced, some, several, code)
            _store_words(y, vector + i * columns, keep, selected, SIGNED, VEC)


@triton.jit
def _expand_lanes(
    x, y, operands, p, q, x_inverse, pixels, YH, YW, E, H, W, x_image, x_row, x_col, columns, count, width,
    bundle, depth, SY, SX, PY, PX, T: tl.constexpr, VEC: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
    HALF_EVEN: tl.constexpr,
):  # fmt: skip
    """Write all whole operands of vector q (LANES,) of pixel p (LANES,): lanes side by side write side by side."""
    keep = p < pixels
    p = tl.minimum(p, pixels - 1)
    image, row, col = _pixel_of(p, YH, YW)
    row, col = row * SY - PY, col * SX - PX
    inside = keep & (row >= 0) & (row < H) & (col >= 0) & (col < W)
    columns = columns // VEC
    group, c = q // columns, q % columns
    # numbers of vectors, so that the compiler sees what divides the addresses
    pixel = image.to(tl.int64) * (x_image // VEC) + row.to(tl.int64) * (x_row // VEC) + col * (x_col // VEC)
    channel = group // bundle * (depth // VEC) + group % bundle * (width // VEC) + c
    vector = p.to(tl.int64) * (E // VEC) + channel
    _expand_whole(x + (pixel + group * columns) * VEC, y, vector, c, columns, operands, count, keep, inside,
                  x_inverse, T, QUANTIZE, SIGNED, HALF_EVEN, VEC)  # fmt: skip


@triton.jit
def _pixel_of(p, YH, YW):
    """Image, row and column of pixel p."""
    line = p // YW
    image = line // YH
    return image, line - image * YH, p - line * YW


@triton.jit
def _locate(x_pixel, entry, stride, row, col, keep, H, W, x_row, x_col, DY, DX, TAPS: tl.constexpr):
    """Addresses of the activations that `ExpandedLayout.sources` says at `entry`, and which are there.

    x_pixel: addresses of the pixels (row, col). keep: without the pixels outside the image, if there is one tap.
    """
    channel = tl.load(entry)
    inside = keep & (channel >= 0)
    if TAPS > 1:
        down = tl.load(entry + stride) * DY
        right = tl.load(entry + 2 * stride) * DX
        inside &= (row + down >= 0) & (row + down < H) & (col + right >= 0) & (col + right < W)
        channel = down.to(tl.int64) * x_row + right * x_col + channel
    return x_pixel + channel, inside


@triton.jit
def _gather(
    x_pixel, entry, stride, row, col, keep, code, x_inverse, H, W, x_row, x_col, gathered, DY, DX,
    T: tl.constexpr, TAPS: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr, HALF_EVEN: tl.constexpr,
):  # fmt: skip
    """The operands (LANES,) of activations that are looked up one by one, with their partners."""
    at, inside = _locate(x_pixel, entry, stride, row, col, keep, H, W, x_row, x_col, DY, DX, TAPS)
    a = load_levels(at, inside, x_inverse, QUANTIZE, SIGNED)
    active = a * 0
    for r in tl.static_range(1, T):
        counts = keep & (((code >> (r - 1)) & 1) != 0)
        partner = entry + r * gathered
        at, inside = _locate(x_pixel, partner, stride, row, col, counts, H, W, x_row, x_col, DY, DX, TAPS)
        active += _is_active(at, inside, x_inverse, QUANTIZE).to(tl.int32)
    value = code >> (3 + 3 * tl.minimum(active, 2))
    above = (a & _bit(value, 1)) | (_reduced(a, HALF_EVEN) & _bit(value, 2))
    return tl.where(a <= 15, a & _bit(value, 0), above)


@triton.jit
def _expand_gathered(
    x, y, first, block, shift, places, sources, codes, x_inverse, pixels, YH, YW, E, H, W, x_image, x_row, x_col,
    gathered, SY, SX, PY, PX, DY, DX, T: tl.constexpr, TAPS: tl.constexpr, QUANTIZE: tl.constexpr,
    SIGNED: tl.constexpr, HALF_EVEN: tl.constexpr, LANES: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Write 2^shift channels that are gathered one by one: a lane one of them, of RUN pixels that follow one another.

    Lanes side by side have channels side by side, so that they load and store few lines together.
    """
    OFFSET: tl.constexpr = 0 if SIGNED else 128
    lane = tl.arange(0, LANES)
    j = (block << shift) + (lane & ((1 << shift) - 1))
    written = j < gathered
    j = tl.minimum(j, gathered - 1)
    code = tl.load(codes + j)
    place = tl.load(places + j)
    p = first + (lane >> shift) * RUN
    image, line, column = _pixel_of(tl.minimum(p, pixels - 1), YH, YW)
    for _step in tl.static_range(RUN):
        keep = written & (p < pixels)
        row, col = line * SY - PY, column * SX - PX
        there = keep
        if TAPS == 1:
            there = keep & (row >= 0) & (row < H) & (col >= 0) & (col < W)
        x_pixel = x + (image.to(tl.int64) * x_image + row.to(tl.int64) * x_row + col * x_col)
        selected = _gather(x_pixel, sources + j, T * gathered, row, col, there, code, x_inverse, H, W, x_row, x_col,
                           gathered, DY, DX, T, TAPS, QUANTIZE, SIGNED, HALF_EVEN)  # fmt: skip
        tl.store(y + (p.to(tl.int64) * E + place), (selected - OFFSET).to(tl.int8), mask=keep)
        p += 1
        column += 1
        line += (column == YW).to(tl.int32)
        column = tl.where(column == YW, 0, column)
        image += (line == YH).to(tl.int32)
        line = tl.where(line == YH, 0, line)


@triton.jit(do_not_specialize=[
    "pixels", "YH", "YW", "E", "H", "W", "x_image", "x_row", "x_col", "columns", "groups", "count", "gathered",
    "shift", "width", "bundle", "depth", "SY", "SX", "PY", "PX", "DY", "DX",
])  # fmt: skip
def quantize_expand(
    x, y, operands, places, sources, codes, x_inverse, pixels, YH, YW, E, H, W, x_image, x_row, x_col,
    columns, groups, count, gathered, shift, width, bundle, depth, SY, SX, PY, PX, DY, DX,
    T: tl.constexpr, TAPS: tl.constexpr, VEC: tl.constexpr, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr,
    HALF_EVEN: tl.constexpr, LANES: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Float32 activations (or 8-bit ones) to the int8 channels that the expanded weights take (`ExpandedLayout`).

    Pixel (i, j) of the (YH, YW) written ones sees the input from (i * SY - PY, j * SX - PX) on. VEC divides the
    channels of a thread and all addresses. Programs in a row share LANES pixels: first those that write the `count`
    whole operands, a lane of VEC channels; then those that write the channels in `sources` with their operands in
    `codes` to `places` in 0..E-1, 2^shift of them at a time (RUN to LANES).
    """
    vectors = groups * (columns // VEC)
    whole = tl.where(count > 0, vectors, 0)
    blocks = tl.cdiv(gathered, 1 << shift)
    in_row = whole + (1 << shift) // RUN * blocks
    first = tl.program_id(0) // in_row * LANES
    program = tl.program_id(0) % in_row
    # Programs of the last row that have no pixel do nothing.
    if program < whole:
        lane = program * LANES + tl.arange(0, LANES)
        if first + program * LANES // vectors < pixels:
            _expand_lanes(x, y, operands, first + lane // vectors, lane % vectors, x_inverse, pixels, YH, YW, E, H, W,
                          x_image, x_row, x_col, columns, count, width, bundle, depth, SY, SX, PY, PX,
                          T, VEC, QUANTIZE, SIGNED, HALF_EVEN)  # fmt: skip
    else:
        block = program - whole
        pixel = first + block // blocks * ((LANES >> shift) * RUN)
        if pixel < pixels:
            _expand_gathered(x, y, pixel, block % blocks, shift, places, sources, codes, x_inverse, pixels, YH, YW, E,
                             H, W, x_image, x_row, x_col, gathered, SY, SX, PY, PX, DY, DX,
                             T, TAPS, QUANTIZE, SIGNED, HALF_EVEN, LANES, RUN)  # fmt: skip
