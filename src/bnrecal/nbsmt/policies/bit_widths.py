"""The package's policies for multipliers of 3 or 5 bits instead of 4, as rules: `smt.bits`.

With k bits an activation of 0..2^k - 1 and a weight of -2^(k-1)..2^(k-1) - 1 fit as they are; others become the nearest
multiple of 2^(8-k), half to even, that k bits and a shift can hold. For k = 4 these are the rules of the golden model.
"""

from types import SimpleNamespace

from bnrecal.nbsmt.policies.builtin import POLICIES
from bnrecal.nbsmt.policies.custom import CustomPolicy


def reduced_activation(a: int, bits: int) -> int:
    """Return r(a) for a in 0..255."""
    step: int = 2 ** (8 - bits)
    return a if fits_activation(a, bits) else min(256 - step, step * round(a / step))


def reduced_weight(b: int, bits: int) -> int:
    """Return r(b) for b in -128..127."""
    step: int = 2 ** (8 - bits)
    return b if fits_weight(b, bits) else max(-128, min(128 - step, step * round(b / step)))


def fits_activation(a: int, bits: int) -> bool:
    """Return whether an activation is an unsigned number of so many bits."""
    end: int = 2**bits
    return a < end


def fits_weight(b: int, bits: int) -> bool:
    """Return whether a weight is a signed number of so many bits."""
    half: int = 2 ** (bits - 1)
    return -half <= b < half


def policy_of_width(name: str, bits: int) -> CustomPolicy:
    """Return one of POLICIES with reduced operands of `bits` bits."""
    policy = POLICIES[name]

    def product(a: int, b: int, active: int) -> int:
        reduce_a, reduce_b = policy.reduces(active, not fits_activation(a, bits), not fits_weight(b, bits))
        return (reduced_activation(a, bits) if reduce_a else a) * (reduced_weight(b, bits) if reduce_b else b)

    return CustomPolicy(f"{name} with {bits} bits", product)


def named(policy: str, bits: int) -> str:
    """Return what `smt.policy` says to get one of POLICIES at this width; the policy itself at 4 bits."""
    return policy if bits == 4 else f"{__name__}:OF_WIDTH_{bits}.{policy}"


OF_WIDTH_3 = SimpleNamespace(**{name: policy_of_width(name, 3) for name in POLICIES})
OF_WIDTH_5 = SimpleNamespace(**{name: policy_of_width(name, 5) for name in POLICIES})
