"""Sums of products inside numba: 64 positions of one filter in registers, and their way back to channels-last.

`I32x64` holds 64 int32 as eight vectors of eight. In AVX2 the two halves of a register are unpacked apart, so vector v
holds the positions 16 * (v // 2) + 4 * (v % 2) + (0, 1, 2, 3, 8, 9, 10, 11); the other forms keep the same order.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from bnrecal.nbsmt.engines.cpu.kernels.simd_u8 import broadcast, intrinsic, load_at, shuffle, splat, store_at

# ruff: noqa: ARG001
VECTORS = 8  # of an I32x64
I32X64_BYTES = 256
_ORDER = [0, 1, 2, 3, 8, 9, 10, 11]
_INT = ir.IntType(32)
_WORD = ir.IntType(64)
_BYTES = ir.VectorType(ir.IntType(8), 32)
_SHORTS = ir.VectorType(ir.IntType(16), 16)
_INTS = ir.VectorType(_INT, 8)
_FLOATS = ir.VectorType(ir.FloatType(), 8)
_ROW = ir.VectorType(ir.IntType(8), 16)
_SUMS = ir.LiteralStructType([_INTS] * VECTORS)


class I32x64(types.Type):
    """64 int32."""

    def __init__(self) -> None:
        super().__init__(name="I32x64")


i32x64 = I32x64()


@register_model(I32x64)
class _I32x64Model(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _SUMS)  # type: ignore[no-untyped-call]


def _built(builder: Any, parts: list[Any]) -> Any:
    whole = ir.Constant(_SUMS, ir.Undefined)
    for index, part in enumerate(parts):
        whole = builder.insert_value(whole, part, index)
    return whole


@intrinsic
def zero_i32x64(_context: Any) -> Any:
    """Return 64 zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        return _built(builder, [splat(0, _INTS)] * VECTORS)

    return i32x64(), code


@intrinsic
def load_i32x64(_context: Any, address: Any) -> Any:
    """Return the 256 bytes at an address."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return _built(builder, [load_at(builder, args[0], _INTS, 32 * v, 32) for v in range(VECTORS)])

    return i32x64(types.uint64), code


@intrinsic
def store_i32x64(_context: Any, address: Any, value: Any) -> Any:
    """Write 256 bytes to an address, a multiple of 32."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        for v in range(VECTORS):
            store_at(builder, args[0], builder.extract_value(args[1], v), 32 * v, 32)
        return context.get_dummy_value()

    return types.void(types.uint64, i32x64), code


@intrinsic
def add_products(_context: Any, sums: Any, first: Any, second: Any, weights: Any) -> Any:
    """Return sums + x0 * w0 + y0 * w1 + x1 * w2 + y1 * w3 for 64 positions.

    Args:
        first: address of 64 pairs of unsigned bytes (x0, y0).
        second: of 64 pairs (x1, y1).
        weights: uint32, four signed bytes w0 to w3; x0 * w0 + y0 * w1 must fit 16 bits, and so the other two.
    """

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        sums, first, second, weights = args
        avx2 = "+avx2" in context.codegen().magic_tuple()[2].split(",")
        pairs = ir.VectorType(ir.IntType(16), 2)
        halves = builder.bitcast(weights, pairs)
        w = []
        for i in range(2):
            half = builder.extract_element(halves, ir.Constant(_INT, i))
            w.append(builder.bitcast(broadcast(builder, half, _SHORTS), _BYTES))
        parts = []
        for block in range(VECTORS // 2):
            sides = [load_at(builder, address, _BYTES, 32 * block) for address in (first, second)]
            products = [_pair_sums(builder, x, y, avx2) for x, y in zip(sides, w, strict=True)]
            for side in range(2):
                at = 2 * block + side
                more = _sum_of_two(builder, products[0], products[1], side, avx2)
                parts.append(builder.add(builder.extract_value(sums, at), more))
        return _built(builder, parts)

    return i32x64(i32x64, types.uint64, types.uint64, types.uint32), code


def _pair_sums(builder: Any, x: Any, w: Any, avx2: bool) -> Any:
    """Return 16 int16: x[2i] * w[2i] + x[2i + 1] * w[2i + 1], x unsigned and w signed."""
    if avx2:
        signature = ir.FunctionType(_SHORTS, [_BYTES, _BYTES])
        return builder.call(builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.ub.sw", (), signature), [x, w])
    wide = ir.VectorType(ir.IntType(16), 32)
    products = builder.mul(builder.zext(x, wide), builder.sext(w, wide))
    even = shuffle(builder, products, products, list(range(0, 32, 2)))
    odd = shuffle(builder, products, products, list(range(1, 32, 2)))
    return builder.add(even, odd)


def _sum_of_two(builder: Any, p: Any, q: Any, side: int, avx2: bool) -> Any:
    """Return eight int32 sums of two int16 vectors: the positions of one side."""
    lanes = [4 * side + i for i in _ORDER]
    if avx2:
        zipped = shuffle(builder, p, q, [lane for i in lanes for lane in (i, 16 + i)])
        signature = ir.FunctionType(_INTS, [_SHORTS, _SHORTS])
        madd = builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.wd", (), signature)
        return builder.call(madd, [zipped, splat(1, _SHORTS)])
    chosen = [builder.sext(shuffle(builder, v, v, lanes), _INTS) for v in (p, q)]
    return builder.add(chosen[0], chosen[1])


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


class I32x8(types.Type):
    """8 int32: as many filters of one position."""

    def __init__(self) -> None:
        super().__init__(name="I32x8")


i32x8 = I32x8()


@register_model(I32x8)
class _I32x8Model(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _INTS)  # type: ignore[no-untyped-call]


@intrinsic
def zero_i32x8(_context: Any) -> Any:
    """Return 8 zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        return splat(0, _INTS)

    return i32x8(), code


def _finish(scaled: bool) -> Any:
    """Make the end of 8 filters at 16 positions: integer totals, or scaled to float32."""

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
    ) -> Any:
        """Write dense + sums + base, if scaled times scale plus bias, every step rounded.

        Returns the bits of |dense| or'ed to `bits`: one from 2^24 up says that float32 may have rounded.

        Args:
            sums: address of two vectors of a `I32x64`; those of the next filters follow after `pitch` bytes.
            places: address of 16 pairs of addresses: of the 8 dense sums of a position (int32, or float32 that hold
                integers, if `are_floats`), and of its 8 results. `offset` bytes are added to each.
            base, scale, bias: addresses of 8 int32, float32, float32.
        """

        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            return _finished(builder, args, scaled)

        words = (types.uint64,) * 7
        return i32x8(i32x8, *words, types.boolean), code

    return finish


def _finished(builder: Any, args: Any, scaled: bool) -> Any:
    """Turn 8 filters x 16 positions of sums into positions x filters, join the dense sums, and write each position.

    Example, filters f0 to f7 and positions p0 to p15. In memory each filter's sums are two vectors of 8 positions:

        v = 0: p0 p1 p2 p3 p8 p9 p10 p11        v = 1: p4 p5 p6 p7 p12 p13 p14 p15      (the order of `I32x64`)

    For v = 1, eight rows (f0: p4 p5 ...), (f1: p4 p5 ...), ... transposed are eight rows (p4: f0 f1 ... f7), (p5: ...),
    ..., (p12: ...): lane l of the rows before is position 4 * v + _ORDER[l], here 4, 5, 6, 7, 12, 13, 14, 15.
    """
    bits, sums, pitch, places, offset, base, scale, bias, are_floats = args
    # Addresses of the sums of the 8 filters, `pitch` bytes apart.
    rows = [sums]
    for _row in range(7):
        rows.append(builder.add(rows[-1], pitch))
    # 8 numbers each, one a filter.
    base = load_at(builder, base, _INTS, align=4)
    scale = load_at(builder, scale, _FLOATS, align=4)
    bias = load_at(builder, bias, _FLOATS, align=4)
    for v in range(2):
        turned = _transposed(builder, [load_at(builder, row, _INTS, 32 * v, 32) for row in rows])
        for row, lane in zip(turned, _ORDER, strict=True):
            # The position's pair of addresses, 16 bytes each: where its dense sums lie, and where its results go.
            pair = 16 * (4 * v + lane)
            dense_address = builder.add(load_at(builder, places, _WORD, pair, 8), offset)
            target = builder.add(load_at(builder, places, _WORD, pair + 8, 8), offset)
            # The dense sums, int32 or float32 that hold integers.
            as_ints = load_at(builder, dense_address, _INTS, align=4)
            from_floats = builder.fptosi(builder.bitcast(as_ints, _FLOATS), _INTS)
            dense = builder.select(are_floats, from_floats, as_ints)
            # x ^ (x >> 31) has the bits of x, or where x is negative those of -x - 1.
            bits = builder.or_(bits, builder.xor(dense, builder.ashr(dense, splat(31, _INTS))))
            total = builder.add(builder.add(dense, row), base)
            if scaled:
                total = builder.fadd(builder.fmul(builder.sitofp(total, _FLOATS), scale), bias)
            store_at(builder, target, total, align=4)
    return bits


finish_scaled = _finish(True)
finish_integers = _finish(False)


@intrinsic
def any_bit(_context: Any, value: Any, mask: Any) -> Any:
    """Return whether a lane shares a bit with the int32 mask."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        masked = builder.and_(args[0], broadcast(builder, args[1], _INTS))
        lanes = builder.icmp_signed("!=", masked, splat(0, _INTS))
        return builder.icmp_unsigned("!=", builder.bitcast(lanes, ir.IntType(8)), ir.Constant(ir.IntType(8), 0))

    return types.boolean(i32x8, types.int32), code
