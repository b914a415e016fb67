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
_INT, _WORD = ir.IntType(32), ir.IntType(64)
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
    """64 zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        return _built(builder, [splat(0, _INTS)] * VECTORS)

    return i32x64(), code


@intrinsic
def load_i32x64(_context: Any, address: Any) -> Any:
    """The 256 bytes at an address."""

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
    """sums + x0 * w0 + y0 * w1 + x1 * w2 + y1 * w3 for 64 positions.

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
        w = [
            builder.bitcast(broadcast(builder, builder.extract_element(halves, ir.Constant(_INT, i)), _SHORTS), _BYTES)
            for i in range(2)
        ]
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
    """16 int16: x[2i] * w[2i] + x[2i + 1] * w[2i + 1], x unsigned and w signed."""
    if avx2:
        signature = ir.FunctionType(_SHORTS, [_BYTES, _BYTES])
        return builder.call(builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.ub.sw", (), signature), [x, w])
    wide = ir.VectorType(ir.IntType(16), 32)
    products = builder.mul(builder.zext(x, wide), builder.sext(w, wide))
    even, odd = (shuffle(builder, products, products, list(range(s, 32, 2))) for s in range(2))
    return builder.add(even, odd)


def _sum_of_two(builder: Any, p: Any, q: Any, side: int, avx2: bool) -> Any:
    """Eight int32 sums of two int16 vectors: the positions of one side."""
    lanes = [4 * side + i for i in _ORDER]
    if avx2:
        zipped = shuffle(builder, p, q, [lane for i in lanes for lane in (i, 16 + i)])
        signature = ir.FunctionType(_INTS, [_SHORTS, _SHORTS])
        madd = builder.module.declare_intrinsic("llvm.x86.avx2.pmadd.wd", (), signature)
        return builder.call(madd, [zipped, splat(1, _SHORTS)])
    chosen = [builder.sext(shuffle(builder, v, v, lanes), _INTS) for v in (p, q)]
    return builder.add(chosen[0], chosen[1])


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Of 2^k vectors of 2^k lanes: interleaving rows i and i + n/2 k times turns rows into columns."""
    n = len(rows)
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
    """8 zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        return splat(0, _INTS)

    return i32x8(), code


def _finish(scaled: bool) -> Any:
    """The end of 8 filters at 16 positions: integer totals, or scaled to float32."""

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
        """dense + sums + base, if scaled times scale plus bias, every step rounded; adds the bits of |dense| to `bits`.

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
    bits, sums, pitch, places, offset, base, scale, bias, are_floats = args
    rows = [sums]
    for _row in range(7):
        rows.append(builder.add(rows[-1], pitch))
    base = load_at(builder, base, _INTS, align=4)
    scale, bias = (load_at(builder, address, _FLOATS, align=4) for address in (scale, bias))
    for v in range(2):
        turned = _transposed(builder, [load_at(builder, row, _INTS, 32 * v, 32) for row in rows])
        for row, lane in zip(turned, _ORDER, strict=True):
            pair = 16 * (4 * v + lane)
            dense, target = (
                builder.add(load_at(builder, places, _WORD, pair + 8 * end, 8), offset) for end in range(2)
            )
            as_ints = load_at(builder, dense, _INTS, align=4)
            from_floats = builder.fptosi(builder.bitcast(as_ints, _FLOATS), _INTS)
            found = builder.select(are_floats, from_floats, as_ints)
            bits = builder.or_(bits, builder.xor(found, builder.ashr(found, splat(31, _INTS))))
            total = builder.add(builder.add(found, row), base)
            if scaled:
                total = builder.fadd(builder.fmul(builder.sitofp(total, _FLOATS), scale), bias)
            store_at(builder, target, total, align=4)
    return bits


finish_scaled, finish_integers = _finish(True), _finish(False)


@intrinsic
def any_bit(_context: Any, value: Any, mask: Any) -> Any:
    """Whether a lane shares a bit with the int32 mask."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        masked = builder.and_(args[0], broadcast(builder, args[1], _INTS))
        found = builder.icmp_signed("!=", masked, splat(0, _INTS))
        return builder.icmp_unsigned("!=", builder.bitcast(found, ir.IntType(8)), ir.Constant(ir.IntType(8), 0))

    return types.boolean(i32x8, types.int32), code
