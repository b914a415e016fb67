"""The 8-bit levels of activations, as `nbsmt.arithmetic.quantize_activation` makes them."""

import triton
import triton.language as tl


@triton.jit
def levels_of(x, x_inverse, SIGNED: tl.constexpr):
    """Float32 activations as int32 levels: 0..255, or -128..127 if SIGNED; NaN becomes 0."""
    steps = x * x_inverse
    steps = tl.where(steps == steps, steps, 0.0)  # NaN
    lowest: tl.constexpr = -128.0 if SIGNED else 0.0
    steps = tl.minimum(tl.maximum(steps, lowest), lowest + 255.0)
    # So large a sum, 1.5 * 2^23, is whole, rounded half to even, and its last bits are the level.
    return (steps + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def load_levels(x, keep, x_inverse, QUANTIZE: tl.constexpr, SIGNED: tl.constexpr):
    """Activations at these addresses as int32: quantized on the way, or integers already. 0 where not `keep`."""
    if QUANTIZE:
        levels = levels_of(tl.load(x, mask=keep, other=0.0), x_inverse, SIGNED)
    else:
        levels = tl.load(x, mask=keep, other=0).to(tl.int32)
    return levels
