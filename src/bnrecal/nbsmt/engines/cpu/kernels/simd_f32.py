"""Float32 vectors inside numba: 16 channels of four positions, as the depthwise kernel adds them up."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from bnrecal.nbsmt.engines.cpu.kernels.simd_u8 import broadcast, intrinsic, levels, load_at, splat, store_at

# ruff: noqa: ARG001
LANES = 16
POSITIONS = 4
VECTOR_BYTES = 4 * LANES
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_QUAD = ir.LiteralStructType([_FLOATS] * POSITIONS)


class F32x16x4(types.Type):
    """16 float32 at each of four positions."""

    def __init__(self) -> None:
        super().__init__(name="F32x16x4")


f32x16x4 = F32x16x4()


@register_model(F32x16x4)
class _F32x16x4Model(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _QUAD)  # type: ignore[no-untyped-call]


@intrinsic
def zero_f32x16x4(_context: Any) -> Any:
    """Return zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        quad = ir.Constant(_QUAD, ir.Undefined)
        for i in range(POSITIONS):
            quad = builder.insert_value(quad, splat(0.0, _FLOATS), i)
        return quad

    return f32x16x4(), code


@intrinsic
def add_tap(_context: Any, quad: Any, first: Any, step: Any, weights: Any) -> Any:
    """Return quad + x * w, fused or not: both are exact while every sum stays below 2^24.

    Args:
        first: address of the 16 floats of the first position; the next ones lie `step` bytes apart.
        weights: address of 16 floats.
    """

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        quad, address, step, weights = args
        signature = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        multiply_add = builder.module.declare_intrinsic(f"llvm.fmuladd.v{LANES}f32", (), signature)
        w = load_at(builder, weights, _FLOATS, align=4)
        for i in range(POSITIONS):
            total = builder.extract_value(quad, i)
            total = builder.call(multiply_add, [load_at(builder, address, _FLOATS, align=4), w, total])
            quad = builder.insert_value(quad, total, i)
            address = builder.add(address, step)
        return quad

    return f32x16x4(f32x16x4, *(types.uint64,) * 3), code


@intrinsic
def store_scaled(_context: Any, quad: Any, target: Any, pitch: Any, scale: Any, bias: Any) -> Any:
    """Write quad * scale + bias, both steps rounded; positions are `pitch` bytes apart.

    Args:
        scale, bias: addresses of 16 floats.
    """

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        quad, target, pitch, scale, bias = args
        scale = load_at(builder, scale, _FLOATS, align=4)
        bias = load_at(builder, bias, _FLOATS, align=4)
        for i in range(POSITIONS):
            store_at(builder, target, builder.fadd(builder.fmul(builder.extract_value(quad, i), scale), bias), align=4)
            target = builder.add(target, pitch)
        return context.get_dummy_value()

    return types.void(f32x16x4, *(types.uint64,) * 4), code


@intrinsic
def any_nan(_context: Any, quad: Any) -> Any:
    """Return whether a value is NaN."""

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        found = [builder.extract_value(args[0], i) for i in range(POSITIONS)]
        lanes = [builder.fcmp_unordered("uno", one, one) for one in found]
        either = builder.or_(builder.or_(lanes[0], lanes[1]), builder.or_(lanes[2], lanes[3]))
        bits = builder.bitcast(either, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(f32x16x4), code


def round_to_bytes(builder: Any, x: Any) -> Any:
    """Return the nearest integers of -128..255, half to even, as bytes (mod 256); of NaN any.

    Added to 1.5 * 2^23, whose last bit counts ones, a number is rounded, and its integer stands in the lowest bits.
    """
    magic = builder.bitcast(builder.fadd(x, splat(12582912.0, _FLOATS)), ir.VectorType(ir.IntType(32), LANES))
    return builder.trunc(magic, ir.VectorType(ir.IntType(8), LANES))


@intrinsic
def widen_levels(_context: Any, target: Any, source: Any, signed: Any) -> Any:
    """Write 16 levels, int8 where `signed` is not 0 and else uint8, as floats."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        target, source, signed = args
        found = load_at(builder, source, ir.VectorType(ir.IntType(8), LANES))
        below = builder.sitofp(found, _FLOATS)
        above = builder.uitofp(found, _FLOATS)
        is_signed = builder.icmp_unsigned("!=", signed, ir.Constant(ir.IntType(64), 0))
        store_at(builder, target, builder.select(is_signed, below, above), align=4)
        return context.get_dummy_value()

    return types.void(*(types.uint64,) * 3), code


@intrinsic
def store_levels(_context: Any, target: Any, source: Any, inverse: Any, lowest: Any, highest: Any) -> Any:
    """Write the levels of 16 floats, as floats."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        inverse, lowest, highest = [broadcast(builder, value, _FLOATS) for value in args[2:]]
        x = load_at(builder, args[1], _FLOATS, align=4)
        store_at(builder, args[0], levels(builder, x, inverse, lowest, highest), align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, *(types.float32,) * 3), code
