"""The instructions that kernels are compiled for, and how wide the sparse kernel's vectors are with them."""

from enum import Enum
from functools import cache

import llvmlite.binding as llvm

from bnrecal.nbsmt.engines.cpu.kernels.cache_key import processor


class Products(Enum):
    """The best way to add four products of bytes to an int32."""

    VNNI_512 = "vpdpbusd, 512 bits"  # AVX-512 with VNNI
    VNNI_256 = "vpdpbusd, 256 bits"  # AVX-VNNI
    AVX2 = "vpmaddubsw and vpmaddwd"  # two products add up in 16 bits
    PLAIN = "multiplications"


def _features() -> frozenset[str]:
    """Return LLVM's names of what numba may use, caps by NUMBA_CPU_FEATURES heeded."""
    _, features = processor()
    return frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


def _products(features: frozenset[str]) -> Products:
    if features >= {"avx512bw", "avx512vnni"}:
        return Products.VNNI_512
    if "avxvnni" in features or features >= {"avx512vl", "avx512vnni"}:
        return Products.VNNI_256
    return Products.AVX2 if "avx2" in features else Products.PLAIN


PRODUCTS = _products(_features())
HAS_VNNI = PRODUCTS in (Products.VNNI_512, Products.VNNI_256)
LANES = 16 if PRODUCTS is Products.VNNI_512 else 8  # int32 of a vector


@cache
def takes_bytes(name: str, lanes: int) -> bool:
    """Return whether this LLVM's vpdpbusd of that name takes vectors of bytes, as from LLVM 22 on, else of int32."""
    ints = f"<{lanes} x i32>"
    some_bytes = f"<{4 * lanes} x i8>"
    # LLVM 15 checks the operands of a call alone, not of a declaration.
    program = f"""
        declare {ints} @{name}({ints}, {some_bytes}, {some_bytes})
        define {ints} @probe({ints} %sum, {some_bytes} %x, {some_bytes} %w) {{
            %new = call {ints} @{name}({ints} %sum, {some_bytes} %x, {some_bytes} %w)
            ret {ints} %new
        }}"""
    try:
        llvm.parse_assembly(program).verify()
    except RuntimeError:
        return False
    return True
