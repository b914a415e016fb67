"""Kernels that call kernels in Triton's interpreter, without what takes most of its time."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import triton.language as tl
from triton.runtime import interpreter


@pytest.fixture(autouse=True, scope="module")
def patched_once() -> Iterator[None]:
    """Prepare each module for the interpreter at the first call into it.

    Triton searches its whole language for what to replace at every call of a kernel by a kernel, although that of the
    kernel around it has replaced it all: half of the interpreter's time.
    """
    prepared: set[str] = set()
    numpy_type = interpreter._get_np_dtype  # which makes a dictionary at each call
    numpy_type_of_number = cache(numpy_type)

    def call(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        if kernel.fn.__module__ not in prepared:
            prepared.add(kernel.fn.__module__)
            interpreter._patch_lang(kernel.fn)
        return kernel.rewrite()(*args, **kwargs)

    def numpy_type_once(of: Any) -> Any:
        number = of.scalar
        return numpy_type_of_number(number) if type(number) is tl.dtype else numpy_type(of)  # else of pointers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        patch.setattr(interpreter, "_get_np_dtype", numpy_type_once)
        yield
