"""The end of a convolution (`engines.conv_end.ConvEnd`): in the kernels that convolve, and as a pass of its own."""

import triton
import triton.language as tl

from bnrecal.nbsmt.engines.gpu.kernels.levels import levels_of


@triton.jit
def store_ended(
    y, x, alpha, beta, residual, keep, lowest, highest, level_inverse, RESIDUAL: tl.constexpr, LEVELS: tl.constexpr,
    SIGNED: tl.constexpr,
):  # fmt: skip
    """Store x * alpha + beta, rounded once, with the residual added, clamped; or (LEVELS) the levels of that.

    y, residual: addresses. alpha, beta: values, as x. NaN stays NaN, for it is neither below nor above a bound.
    """
    ended = tl.fma(x, alpha, beta)
    if RESIDUAL:
        ended += tl.load(residual, mask=keep, other=0.0)
    ended = tl.where(ended < lowest, lowest, ended)
    ended = tl.where(ended > highest, highest, ended)
    if LEVELS:
        levels = levels_of(ended, level_inverse, SIGNED)
        tl.store(y, levels.to(tl.int8) if SIGNED else levels.to(tl.uint8), mask=keep)
    else:
        tl.store(y, ended, mask=keep)


@triton.jit(do_not_specialize=["filters"])
def end_values(
    x, y, alpha, beta, residual, values, filters, lowest, highest, level_inverse,
    RESIDUAL: tl.constexpr, LEVELS: tl.constexpr, LEVELS_SIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """End the convolution's output x, float32 (values,), whose channels lie side by side, into y."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    at = first + lane
    keep = at < values
    o = ((first % filters).to(tl.int32) + lane) % filters
    store_ended(y + at, tl.load(x + at, mask=keep, other=0.0), tl.load(alpha + o), tl.load(beta + o), residual + at,
                keep, lowest, highest, level_inverse, RESIDUAL, LEVELS, LEVELS_SIGNED)  # fmt: skip
