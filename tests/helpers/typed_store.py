"""Stores of Triton's interpreter in the type of the address: Triton 3.2 sums int32 to int64 and then stores 8 bytes."""

from typing import Any

from triton.runtime import interpreter

_OWN_STORE = interpreter.InterpreterBuilder.create_masked_store


def install() -> None:
    """Let the interpreter of this process store so; newer ones do already."""
    interpreter.InterpreterBuilder.create_masked_store = _masked_store


def _masked_store(builder: Any, address: Any, value: Any, *others: Any) -> Any:
    wanted = interpreter._get_np_dtype(address.get_element_ty())
    typed = interpreter.TensorHandle(value.data.astype(wanted, copy=False), value.dtype)
    return _OWN_STORE(builder, address, typed, *others)
