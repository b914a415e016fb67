"""Vectors inside numba: LLVM's own vector operations, so that no loop depends on the auto-vectorizer.

LLVM splits them to whatever the processor has (AVX-512, AVX2, SSE, NEON). Addresses are uint64.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, overload, register_model

from bnrecal.nbsmt.arithmetic import LARGEST_NARROW_ACTIVATION

# ruff: noqa: ARG001  (numba looks at the arguments' names and number; the code works on their LLVM values)
LANES = 64
_BYTE = ir.IntType(8)
_INT = ir.IntType(32)
_WORD = ir.IntType(64)
_BYTES = ir.VectorType(_BYTE, LANES)
_WORDS = ir.VectorType(_WORD, LANES // 8)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(_INT, LANES)


class U8x64(types.Type):
    """64 unsigned bytes."""

    def __init__(self) -> None:
        super().__init__(name="U8x64")


u8x64 = U8x64()


@register_model(U8x64)
class _U8x64Model(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _BYTES)  # type: ignore[no-untyped-call]


def intrinsic(typed: Callable[..., Any]) -> Any:
    """Make numba's intrinsic, whose declared type would ask callers for the typing context."""
    return numba_intrinsic(typed)


def splat(value: float, vector: ir.VectorType = _BYTES) -> ir.Constant:
    """Return a constant with the same value in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def broadcast(builder: Any, value: Any, vector: ir.VectorType) -> Any:
    """Return a vector with `value` in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_INT, 0))
    lanes = ir.Constant(ir.VectorType(_INT, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Return the chosen lanes of a (0..n-1) and b (n..2n-1)."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def load_at(builder: Any, address: Any, vector: ir.Type, offset: int = 0, align: int = 1) -> Any:
    """Return the value `offset` bytes after an address."""
    moved = builder.add(address, ir.Constant(_WORD, offset)) if offset else address
    return builder.load(builder.inttoptr(moved, vector.as_pointer()), align=align)


def store_at(builder: Any, address: Any, value: Any, offset: int = 0, align: int = 1) -> None:
    """Write a value `offset` bytes after an address."""
    moved = builder.add(address, ir.Constant(_WORD, offset)) if offset else address
    builder.store(value, builder.inttoptr(moved, value.type.as_pointer()), align=align)


def store_zipped_at(builder: Any, address: Any, first: Any, second: Any) -> None:
    """Write two vectors of 64 bytes to an address, alternating.

    Processors zip within 16 bytes. LLVM does not find that way to zip 64 by itself, but takes 16 bytes at a time.
    """
    halves = []
    for half in (0, 8):
        # 8 bytes of both for each 16: those that come out at 32 * quarter + 2 * half.
        starts = [16 * quarter + half + i for quarter in range(4) for i in range(8)]
        zipped = shuffle(builder, first, second, [lane for i in starts for lane in (i, LANES + i)])
        halves.append(builder.bitcast(zipped, _WORDS))
    for at, quarters in ((0, (0, 1)), (LANES, (2, 3))):
        words = [word for q in quarters for word in (2 * q, 2 * q + 1, 8 + 2 * q, 9 + 2 * q)]
        store_at(builder, address, shuffle(builder, halves[0], halves[1], words), at)


def reduced(builder: Any, a: Any, up: Any, odd: Any) -> Any:
    """Return r(a) of 64 bytes; `up` and `odd` are vectors, of 7 and 1 to half even, of 0 and 0 down."""
    # To the nearest multiple of 16: add 7, or 8 where the quotient is odd, and clear the low four bits.
    # 40 = 2 * 16 + 8 becomes 40 + 7 = 47, cleared 32; 56 = 3 * 16 + 8 becomes 56 + 8 = 64.
    clamped = builder.select(builder.icmp_unsigned("<", a, splat(240)), a, splat(240))
    quotient_odd = builder.and_(builder.lshr(clamped, splat(4)), odd)
    rounded = builder.and_(builder.add(builder.add(clamped, up), quotient_odd), splat(0xF0))
    return by_width(builder, a)(a, rounded)


def by_width(builder: Any, a: Any) -> Callable[[Any, Any], Any]:
    """Return (narrow, wide) to narrow in the lanes where one of the 64 bytes a fits 4 bits, else wide."""
    is_narrow = builder.icmp_unsigned("<", a, splat(LARGEST_NARROW_ACTIVATION + 1))
    return lambda narrow, wide: builder.select(is_narrow, narrow, wide)


def levels(builder: Any, x: Any, inverse: Any, lowest: Any, highest: Any) -> Any:
    """Return clamp(round_half_even(x * inverse), lowest, highest) of vectors of float32; NaN counts as 0."""
    vector = x.type
    signature = ir.FunctionType(vector, [vector])
    rint = builder.module.declare_intrinsic(f"llvm.rint.v{vector.count}f32", (), signature)
    x = builder.call(rint, [builder.fmul(x, inverse)])
    x = builder.select(builder.fcmp_ordered("ord", x, x), x, splat(0.0, vector))
    x = builder.select(builder.fcmp_ordered("olt", x, lowest), lowest, x)
    return builder.select(builder.fcmp_ordered("ogt", x, highest), highest, x)


@intrinsic
def load(_context: Any, address: Any) -> Any:
    """Return the 64 bytes at an address."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return load_at(builder, args[0], _BYTES)

    return u8x64(types.uint64), code


@intrinsic
def store(_context: Any, address: Any, value: Any) -> Any:
    """Write 64 bytes to an address."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        store_at(builder, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.uint64, u8x64), code


@intrinsic
def store_zipped(_context: Any, address: Any, first: Any, second: Any) -> Any:
    """Write 128 bytes: first[0], second[0], first[1], second[1], ..."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        store_zipped_at(builder, *args)
        return context.get_dummy_value()

    return types.void(types.uint64, u8x64, u8x64), code


@intrinsic
def quantize(_context: Any, address: Any, inverse: Any, lowest: Any, highest: Any, offset: Any) -> Any:
    """Return clamp(round_half_even(x * inverse), lowest, highest) + offset of 64 float32; NaN counts as 0."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        inverse, lowest, highest, offset = [broadcast(builder, value, _FLOATS) for value in args[1:]]
        x = levels(builder, load_at(builder, args[0], _FLOATS, align=4), inverse, lowest, highest)
        return builder.trunc(builder.fptosi(builder.fadd(x, offset), _INTS), _BYTES)

    return u8x64(types.uint64, *(types.float32,) * 4), code


@intrinsic
def reduce(_context: Any, a: Any, up: Any, odd: Any) -> Any:
    """Return r(a): up = 7, odd = 1 round half to even; 0, 0 round down. 241..255 become 240 either way."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        up = broadcast(builder, args[1], _BYTES)
        odd = broadcast(builder, args[2], _BYTES)
        return reduced(builder, args[0], up, odd)

    return u8x64(u8x64, types.uint8, types.uint8), code


@intrinsic
def copy(_context: Any, target: Any, source: Any, count: Any) -> Any:
    """Move count bytes between addresses that do not overlap."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        target = builder.inttoptr(args[0], _BYTE.as_pointer())
        source = builder.inttoptr(args[1], _BYTE.as_pointer())
        cgutils.raw_memcpy(builder, target, source, args[2], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), code


@intrinsic
def clear(_context: Any, address: Any, count: Any) -> Any:
    """Write count zero bytes."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        address = builder.inttoptr(args[0], _BYTE.as_pointer())
        cgutils.memset(builder, address, args[1], 0)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), code


@intrinsic
def claim(_context: Any, address: Any) -> Any:
    """Return the uint64 at an address, and make it one more: atomic, so every caller gets its own."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        word = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", word, ir.Constant(_WORD, 1), "monotonic")

    return types.uint64(types.uint64), code


@intrinsic
def uint16_at(_context: Any, address: Any) -> Any:
    """Return the uint16 at an address, as uint64."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.zext(load_at(builder, args[0], ir.IntType(16)), _WORD)

    return types.uint64(types.uint64), code


@intrinsic
def store_u64(_context: Any, address: Any, value: Any) -> Any:
    """Write a uint64 to an address."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        store_at(builder, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), code


@intrinsic
def pointer(_context: Any, address: Any) -> Any:
    """Return an address as a pointer, as `carray` wants it."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], _BYTE.as_pointer())

    return types.voidptr(types.uint64), code


def _mask(compare: Callable[[Any, Any], Any]) -> Any:
    @intrinsic
    def mask(_context: Any, a: Any) -> Any:
        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            return builder.sext(compare(builder, args[0]), _BYTES)

        return u8x64(u8x64), code

    return mask


def _operator(operation: Any, instruction: str) -> Any:
    """Let `operation` work lane by lane on two U8x64."""

    @intrinsic
    def lanewise(_context: Any, a: Any, b: Any) -> Any:
        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            return getattr(builder, instruction)(args[0], args[1])

        return u8x64(u8x64, u8x64), code

    @overload(operation, strict=False)
    def overloaded(a: Any, b: Any) -> Any:
        if isinstance(a, U8x64) and isinstance(b, U8x64):
            return lambda a, b: lanewise(a, b)  # noqa: PLW0108  (numba compiles Python functions alone)
        return None


nonzero = _mask(lambda builder, a: builder.icmp_unsigned("!=", a, splat(0)))
_operator(operator.and_, "and_")
_operator(operator.or_, "or_")
_operator(operator.xor, "xor")
