"""A fused multiply-add in numpy, for Triton's interpreter: its own rounds the product and then the sum."""

from typing import Any

import numpy as np
import numpy.typing as npt
from triton.runtime import interpreter

Floats = npt.NDArray[np.float32]


def fma(x: Floats, y: Floats, z: Floats) -> Floats:
    """Return x * y + z, rounded once.

    float64 holds the product. Its sum is rounded to odd: where it is inexact its last bit is set, so that rounding it
    again, to float32, goes where the exact sum would (Boldo and Melquiond 2008).
    """
    product = x.astype(np.float64) * y.astype(np.float64)
    addend = z.astype(np.float64)
    with np.errstate(invalid="ignore"):
        total = np.asarray(product + addend)
        part = total - product
        error = (product - (total - part)) + (addend - part)  # exact: the rest that rounding took away
    bits = total.view(np.int64)
    even = (bits & 1) == 0
    inexact = np.isfinite(total) & (error != 0)
    towards_zero = (error > 0) != (total > 0)
    odd = np.where(inexact & even, np.where(towards_zero, bits - 1, bits + 1), bits)
    return odd.view(np.float64).astype(np.float32)


def create_fma(_: object, x: Any, y: Any, z: Any) -> Any:
    """What the interpreter is to do for `tl.fma`."""
    return interpreter.TensorHandle(fma(x.data, y.data, z.data), z.dtype.scalar)
