"""Sums of products inside numba: POSITIONS positions of one filter in registers, and their way back to channels-last.

`I32Positions` holds eight vectors of LANES int32 (16 with 512-bit VNNI, else 8). A processor unpacks every 16 bytes of
a register apart, so vector v holds the positions 2 * LANES * (v // 2) + 4 * (v % 2) + (0, 1, 2, 3, 8, 9, 10, 11, ...);
the other forms keep the same order.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from bnrecal.nbsmt.engines.cpu.kernels.instructions import HAS_VNNI, LANES, PRODUCTS, Products, takes_bytes
from bnrecal.nbsmt.engines.cpu.kernels.simd_u8 import broadcast, intrinsic, load_at, shuffle, splat, store_at

# ruff: noqa: ARG001
VECTORS = 8  # of an I32Positions
VECTOR_BYTES = 4 * LANES
POSITIONS = LANES * VECTORS
POSITIONS_BYTES = VECTOR_BYTES * VECTORS
_ORDER = [8 * (lane // 4) + lane % 4 for lane in range(LANES)]
_INT = ir.IntType(32)
_WORD = ir.IntType(64)
_BYTES = ir.VectorType(ir.IntType(8), 4 * LANES)
_SHORTS = ir.VectorType(ir.IntType(16), 2 * LANES)
_INTS = ir.VectorType(_INT, LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_ROW = ir.VectorType(ir.IntType(8), 16)
_SUMS = ir.LiteralStructType([_INTS] * VECTORS)


class I32Positions(types.Type):
    """POSITIONS int32: one filter's sums at as many positions."""

    def __init__(self) -> None:
        super().__init__(name="I32Positions")


i32_positions = I32Positions()


@register_model(I32Positions)
class _I32PositionsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _SUMS)  # type: ignore[no-untyped-call]


def _built(builder: Any, parts: list[Any]) -> Any:
    whole = ir.Constant(_SUMS, ir.Undefined)
    for index, part in enumerate(parts):
        whole = builder.insert_value(whole, part, index)
    return whole


@intrinsic
def zero_sums(_context: Any) -> Any:
    """Return zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        return _built(builder, [splat(0, _INTS)] * VECTORS)

    return i32_positions(), code


@intrinsic
def load_sums(_context: Any, address: Any) -> Any:
    """Return the POSITIONS_BYTES bytes at an address."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        places = range(0, POSITIONS_BYTES, VECTOR_BYTES)
        return _built(builder, [load_at(builder, args[0], _INTS, place, VECTOR_BYTES) for place in places])

    return i32_positions(types.uint64), code


@intrinsic
def store_sums(_context: Any, address: Any, value: Any) -> Any:
    """Write POSITIONS_BYTES bytes to an address, a multiple of VECTOR_BYTES."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        for v in range(VECTORS):
            store_at(builder, args[0], builder.extract_value(args[1], v), VECTOR_BYTES * v, VECTOR_BYTES)
        return context.get_dummy_value()

    return types.void(types.uint64, i32_positions), code


@intrinsic
def add_products(_context: Any, sums: Any, first: Any, second: Any, weights: Any) -> Any:
    """Return sums + x0 * w0 + y0 * w1 + x1 * w2 + y1 * w3 for POSITIONS positions.

    Args:
        first: address of POSITIONS pairs of unsigned bytes (x0, y0).
        second: of as many pairs (x1, y1).
        weights: uint32, four signed bytes w0 to w3. Without VNNI x0 * w0 + y0 * w1 must fit 16 bits, and so the other
            two.
    """

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        sums, first, second, weights = args
        w = builder.bitcast(broadcast(builder, weights, _INTS), _BYTES)
        parts = []
        for block in range(VECTORS // 2):
            # 2 * LANES pairs of each: those of vectors 2 * block and 2 * block + 1.
            x = load_at(builder, first, _SHORTS, 4 * LANES * block)
            y = load_at(builder, second, _SHORTS, 4 * LANES * block)
            for side in range(2):
                # x0 y0 x1 y1 of the side's positions, four bytes each.
                pairs = [4 * side + lane for lane in _ORDER]
                zipped = shuffle(builder, x, y, [lane for i in pairs for lane in (i, 2 * LANES + i)])
                total = builder.extract_value(sums, 2 * block + side)
                parts.append(_add_four(builder, total, builder.bitcast(zipped, _BYTES), w))
        return _built(builder, parts)

    return i32_positions(i32_positions, types.uint64, types.uint64, types.uint32), code


def _add_four(builder: Any, total: Any, x: Any, w: Any) -> Any:
    """Return LANES int32: total and the sum of each four products, x unsigned bytes and w signed ones."""
    if HAS_VNNI:
        return _vpdpbusd(builder, total, x, w)
    if PRODUCTS is Products.AVX2:
        signature = ir.FunctionType(_SHORTS, [_BYTES, _BYTES])
        multiply = builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.ub.sw", (), signature)
        products = builder.call(multiply, [x, w])
        signature = ir.FunctionType(_INTS, [_SHORTS, _SHORTS])
        add = builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.wd", (), signature)
        return builder.add(total, builder.call(add, [products, splat(1, _SHORTS)]))
    wide = ir.VectorType(_INT, 4 * LANES)
    products = builder.mul(builder.zext(x, wide), builder.sext(w, wide))
    for i in range(4):
        every_fourth = list(range(i, 4 * LANES, 4))
        total = builder.add(total, shuffle(builder, products, products, every_fourth))
    return total


def _vpdpbusd(builder: Any, total: Any, x: Any, w: Any) -> Any:
    """Return total + four products in each lane, by one instruction."""
    name = f"llvm.x86.avx512.vpdpbusd.{32 * LANES}"  # with AVX-VNNI alone it is encoded without AVX-512
    operands = _BYTES if takes_bytes(name, LANES) else _INTS
    signature = ir.FunctionType(_INTS, [_INTS, operands, operands])
    instruction = builder.module.declare_intrinsic(name, (), signature)
    return builder.call(instruction, [total, builder.bitcast(x, operands), builder.bitcast(w, operands)])


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Return the columns of 2^k vectors of 2^k lanes.

    Interleave rows i and i + n/2, k times. With n = 4, rows a b c d: first a0 c0 a1 c1 | a2 c2 a3 c3 | b0 d0 b1 d1 |
    b2 d2 b3 d3, then a0 b0 c0 d0 | a1 b1 c1 d1 | ...
    """
    n = len(rows)
    # Lanes of the two halves of what zipping two rows gives: 0..n-1 are the first row's, n..2n-1 the second's.
    low = [lane for i in range(n // 2) for lane in (i, n + i)]
    high = [lane + n // 2 for lane in low]
    for _ in range(n.bit_length() - 1):
        half = zip(rows[: n // 2], rows[n // 2 :], strict=True)
        rows = [part for a, b in half for part in (shuffle(builder, a, b, low), shuffle(builder, a, b, high))]
    return rows


@intrinsic
def transpose_bytes(_context: Any, sources: Any, offset: Any, target: Any, pitch: Any) -> Any:
    """Transpose 16 x 16 bytes: byte offset + c of source p goes to target + c * pitch + p.

    Args:
        sources: address of 16 addresses (uint64) of 16 bytes each.
    """

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        rows = [
            load_at(builder, builder.add(args[1], load_at(builder, args[0], _WORD, 8 * p, 8)), _ROW) for p in range(16)
        ]
        target = args[2]
        for row in _transposed(builder, rows):
            store_at(builder, target, row)
            target = builder.add(target, args[3])
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64, types.uint64), code


class I32Filters(types.Type):
    """LANES int32: as many filters of one position."""

    def __init__(self) -> None:
        super().__init__(name="I32Filters")


i32_filters = I32Filters()


@register_model(I32Filters)
class _I32FiltersModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _INTS)  # type: ignore[no-untyped-call]


@intrinsic
def zero_filters(_context: Any) -> Any:
    """Return LANES zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        return splat(0, _INTS)

    return i32_filters(), code


@intrinsic
def finish(
    _context: Any,
    bits: Any,
    sums: Any,
    pitch: Any,
    places: Any,
    offset: Any,
    base: Any,
    scale: Any,
    bias: Any,
    are_floats: Any,
    to_integers: Any,
) -> Any:
    """Write dense + sums + base of LANES filters at 2 * LANES positions: as integers, or scaled to float32.

    Scaled they are times scale plus bias, every step rounded. Returns the bits of |dense| or'ed to `bits`: one from
    2^24 up says that float32 may have rounded.

    Args:
        sums: address of two vectors of an `I32Positions`; those of the next filters follow after `pitch` bytes.
        places: address of 2 * LANES pairs of addresses: of the LANES dense sums of a position (int32, or float32 that
            hold integers, if `are_floats`), and of its LANES results. `offset` bytes are added to each.
        base, scale, bias: addresses of LANES int32, float32, float32.
    """

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return _finished(builder, args)

    words = (types.uint64,) * 7
    return i32_filters(i32_filters, *words, types.boolean, types.boolean), code


def _finished(builder: Any, args: Any) -> Any:
    """Turn LANES filters x 2 * LANES positions of sums into positions x filters, join the dense sums, and write.

    Example with 8 lanes, filters f0 to f7 and positions p0 to p15. In memory each filter's sums are two vectors of 8
    positions:

        v = 0: p0 p1 p2 p3 p8 p9 p10 p11        v = 1: p4 p5 p6 p7 p12 p13 p14 p15      (the order of `I32Positions`)

    For v = 1, eight rows (f0: p4 p5 ...), (f1: p4 p5 ...), ... transposed are eight rows (p4: f0 f1 ... f7), (p5: ...),
    ..., (p12: ...): lane l of the rows before is position 4 * v + _ORDER[l], here 4, 5, 6, 7, 12, 13, 14, 15.
    """
    bits, sums, pitch, places, offset, base, scale, bias, are_floats, to_integers = args
    # Addresses of the sums of the filters, `pitch` bytes apart.
    rows = [sums]
    for _row in range(LANES - 1):
        rows.append(builder.add(rows[-1], pitch))
    # LANES numbers each, one a filter.
    base = load_at(builder, base, _INTS, align=4)
    scale = load_at(builder, scale, _FLOATS, align=4)
    bias = load_at(builder, bias, _FLOATS, align=4)
    for v in range(2):
        turned = _transposed(builder, [load_at(builder, row, _INTS, VECTOR_BYTES * v, VECTOR_BYTES) for row in rows])
        for row, lane in zip(turned, _ORDER, strict=True):
            # The position's pair of addresses, 16 bytes each: where its dense sums lie, and where its results go.
            pair = 16 * (4 * v + lane)
            dense_address = builder.add(load_at(builder, places, _WORD, pair, 8), offset)
            target = builder.add(load_at(builder, places, _WORD, pair + 8, 8), offset)
            # Positions lie a pixel of all filters apart, so that no prefetcher of the processor follows.
            _prefetch(builder, dense_address, 2 * VECTOR_BYTES, for_writing=False)
            _prefetch(builder, target, 2 * VECTOR_BYTES, for_writing=True)
            # The dense sums, int32 or float32 that hold integers.
            as_ints = load_at(builder, dense_address, _INTS, align=4)
            from_floats = builder.fptosi(builder.bitcast(as_ints, _FLOATS), _INTS)
            dense = builder.select(are_floats, from_floats, as_ints)
            # x ^ (x >> 31) has the bits of x, or where x is negative those of -x - 1.
            bits = builder.or_(bits, builder.xor(dense, builder.ashr(dense, splat(31, _INTS))))
            total = builder.add(builder.add(dense, row), base)
            scaled = builder.fadd(builder.fmul(builder.sitofp(total, _FLOATS), scale), bias)
            result = builder.select(to_integers, total, builder.bitcast(scaled, _INTS))
            store_at(builder, target, result, align=4)
    return bits


def _prefetch(builder: Any, address: Any, offset: int, for_writing: bool) -> None:
    """Ask for the cache line `offset` bytes on; where there is no memory, nothing happens."""
    pointer_type = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer_type, _INT, _INT, _INT])
    instruction = builder.module.declare_intrinsic("llvm.prefetch", (pointer_type,), signature)
    pointer = builder.inttoptr(builder.add(address, ir.Constant(_WORD, offset)), pointer_type)
    keep = ir.Constant(_INT, 3)
    data = ir.Constant(_INT, 1)
    builder.call(instruction, [pointer, ir.Constant(_INT, int(for_writing)), keep, data])


@intrinsic
def any_bit(_context: Any, value: Any, mask: Any) -> Any:
    """Return whether a lane shares a bit with the int32 mask."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        masked = builder.and_(args[0], broadcast(builder, args[1], _INTS))
        lanes = builder.icmp_signed("!=", masked, splat(0, _INTS))
        every = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(lanes, every), ir.Constant(every, 0))

    return types.boolean(i32_filters, types.int32), code
