"""Float64 vectors inside numba: two sums of 16 lanes, as BatchNorm's moments are added up."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from bnrecal.nbsmt.engines.cpu.kernels.simd_u8 import intrinsic, load_at, splat, store_at

# ruff: noqa: ARG001
LANES = 16
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_PAIR = ir.LiteralStructType([_DOUBLES] * 2)


class F64x16x2(types.Type):
    """16 float64 sums, and 16 of squares."""

    def __init__(self) -> None:
        super().__init__(name="F64x16x2")


f64x16x2 = F64x16x2()


@register_model(F64x16x2)
class _F64x16x2Model(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _PAIR)  # type: ignore[no-untyped-call]


@intrinsic
def zero_f64x16x2(_context: Any) -> Any:
    """Return zeros."""

    def code(_: Any, builder: Any, __: Any, ___: Any) -> Any:
        pair = ir.Constant(_PAIR, ir.Undefined)
        for i in range(2):
            pair = builder.insert_value(pair, splat(0.0, _DOUBLES), i)
        return pair

    return f64x16x2(), code


@intrinsic
def add_shifted(_context: Any, pair: Any, source: Any, origin: Any) -> Any:
    """Return the sums plus x - origin, and plus its square, every step rounded.

    Args:
        source: address of 16 float32.
        origin: address of 16 float64.
    """

    def code(_: Any, builder: Any, __: Any, args: Any) -> Any:
        pair, source, origin = args
        x = builder.fpext(load_at(builder, source, _FLOATS, align=4), _DOUBLES)
        shifted = builder.fsub(x, load_at(builder, origin, _DOUBLES, align=8))
        sums = builder.fadd(builder.extract_value(pair, 0), shifted)
        squares = builder.fadd(builder.extract_value(pair, 1), builder.fmul(shifted, shifted))
        return builder.insert_value(builder.insert_value(pair, sums, 0), squares, 1)

    return f64x16x2(f64x16x2, types.uint64, types.uint64), code


@intrinsic
def store_f64x16x2(_context: Any, pair: Any, sums: Any, squares: Any) -> Any:
    """Write 16 sums and 16 sums of squares to two addresses."""

    def code(context: Any, builder: Any, __: Any, args: Any) -> Any:
        pair, *targets = args
        for i, target in enumerate(targets):
            store_at(builder, target, builder.extract_value(pair, i), align=8)
        return context.get_dummy_value()

    return types.void(f64x16x2, types.uint64, types.uint64), code
