"""64-byte vectors inside numba: LLVM's own vector operations, so that no loop depends on the auto-vectorizer.

LLVM splits them to whatever the processor has (AVX-512, AVX2, SSE, NEON).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

# ruff: noqa: ARG001  (numba looks at the arguments' names and number; the code works on their LLVM values)
LANES = 64
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)


class Bytes(types.Type):
    """64 unsigned bytes."""

    def __init__(self) -> None:
        super().__init__(name="Bytes")


bytes_type = Bytes()


@register_model(Bytes)
class _BytesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _BYTES)  # type: ignore[no-untyped-call]


def _operation(typed: Callable[..., Any]) -> Any:
    return intrinsic(typed)


def _splat(value: int) -> ir.Constant:
    return ir.Constant(_BYTES, [value] * LANES)


def _broadcast(builder: Any, value: Any, vector: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def _at(builder: Any, address: Any, vector: ir.VectorType) -> Any:
    return builder.inttoptr(address, vector.as_pointer())


@_operation
def load(_context: Any, address: Any) -> Any:
    """The 64 bytes at an address (uint64)."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], _BYTES), align=1)

    return bytes_type(types.uint64), code


@_operation
def store(_context: Any, address: Any, value: Any) -> Any:
    """Write 64 bytes to an address (uint64)."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        builder.store(args[1], _at(builder, args[0], _BYTES), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, bytes_type), code


@_operation
def quantize(_context: Any, address: Any, inverse: Any, lowest: Any, highest: Any, offset: Any) -> Any:
    """clamp(round_half_even(x * inverse), lowest, highest) + offset of 64 float32 at an address; NaN counts as 0."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        inverse, lowest, highest, offset = (_broadcast(builder, value, _FLOATS) for value in args[1:])
        x = builder.fmul(builder.load(_at(builder, args[0], _FLOATS), align=4), inverse)
        rint = builder.module.declare_intrinsic(f"llvm.rint.v{LANES}f32", (), ir.FunctionType(_FLOATS, [_FLOATS]))
        x = builder.call(rint, [x])
        x = builder.select(builder.fcmp_ordered("ord", x, x), x, ir.Constant(_FLOATS, [0.0] * LANES))
        x = builder.select(builder.fcmp_ordered("olt", x, lowest), lowest, x)
        x = builder.select(builder.fcmp_ordered("ogt", x, highest), highest, x)
        return builder.trunc(builder.fptosi(builder.fadd(x, offset), _WORDS), _BYTES)

    floats = (types.float32,) * 4
    return bytes_type(types.uint64, *floats), code


@_operation
def reduce(_context: Any, a: Any, up: Any, odd: Any) -> Any:
    """r(a): up = 7, odd = 1 round half to even; 0, 0 round down. 241..255 become 240 either way."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        a, up, odd = args[0], _broadcast(builder, args[1], _BYTES), _broadcast(builder, args[2], _BYTES)
        held = builder.select(builder.icmp_unsigned("<", a, _splat(240)), a, _splat(240))
        quotient_odd = builder.and_(builder.lshr(held, _splat(4)), odd)
        rounded = builder.and_(builder.add(builder.add(held, up), quotient_odd), _splat(0xF0))
        return builder.select(builder.icmp_unsigned("<", a, _splat(16)), a, rounded)

    return bytes_type(bytes_type, types.uint8, types.uint8), code


@_operation
def copy(_context: Any, target: Any, source: Any, count: Any) -> Any:
    """Move count bytes between addresses that do not overlap."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        target, source = (builder.inttoptr(address, ir.IntType(8).as_pointer()) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), code


@_operation
def pick(_context: Any, target: Any, source: Any, offset: Any) -> Any:
    """Move the byte at source + the uint32 at the address `offset`."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32).as_pointer()
        found = builder.zext(builder.load(builder.inttoptr(args[2], word)), ir.IntType(64))
        value = builder.load(builder.inttoptr(builder.add(args[1], found), byte))
        builder.store(value, builder.inttoptr(args[0], byte))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), code


@_operation
def claim(_context: Any, address: Any) -> Any:
    """The uint64 at an address, which becomes one more: atomic, so every caller gets its own."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        word = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", word, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.uint64(types.uint64), code


def _mask(compare: Callable[[Any, Any], Any]) -> Any:
    @_operation
    def mask(_context: Any, a: Any) -> Any:
        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            return builder.sext(compare(builder, args[0]), _BYTES)

        return bytes_type(bytes_type), code

    return mask


def _binary(name: str) -> Any:
    @_operation
    def operation(_context: Any, a: Any, b: Any) -> Any:
        def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
            return getattr(builder, name)(args[0], args[1])

        return bytes_type(bytes_type, bytes_type), code

    return operation


nonzero = _mask(lambda builder, a: builder.icmp_unsigned("!=", a, _splat(0)))
narrow = _mask(lambda builder, a: builder.icmp_unsigned("<", a, _splat(16)))
both = _binary("and_")
either = _binary("or_")
differ = _binary("xor")
