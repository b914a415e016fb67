"""Triton kernels as its compiler takes them, in every release."""

import inspect
from collections.abc import Container
from typing import Any

from triton.compiler import ASTSource


def kernel_source(kernel: Any, types: dict[str, str], constants: dict[str, Any], even: Container[str]) -> Any:
    """A kernel whose arguments are known.

    Args:
        types: of the arguments that are no constants; those not named are i32.
        even: which arguments are multiples of 16.
    """
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    told = [param.name for param in kernel.params if not param.do_not_specialize]  # as a launch tells the compiler
    places = [names.index(name) for name in told if name in even and name not in constants]
    if "constexprs" in inspect.signature(ASTSource).parameters:
        values = {(names.index(name),): value for name, value in constants.items()}
        return ASTSource(kernel, signature, values, {(place,): [["tt.divisibility", 16]] for place in places})
    from triton.backends.compiler import AttrsDescriptor  # Triton 3.2 has it, later ones do not

    return ASTSource(kernel, signature, constants, AttrsDescriptor.from_hints(dict.fromkeys(places, 16)))
