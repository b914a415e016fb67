"""What is emulated: how many threads share a multiplier, and how a collision between them is resolved."""

from dataclasses import dataclass

from bnrecal.nbsmt.own_policy import is_own
from bnrecal.options import POLICIES, ROUNDINGS, THREADS


@dataclass(frozen=True)
class SmtSpec:
    """One NB-SMT machine.

    Attributes:
        threads: T, dot products in flight on one processing element: 1 (the plain 8-bit convolution), 2 or 4.
        policy: which operand gives way when exactly two threads are active: "A" the activation; "Aw" the
            activation, unless the weight fits 4 bits anyway; "W" the weight; "aW" the weight, unless the
            activation fits 4 bits anyway. More than two active threads reduce both operands under all of these. Or
            "module:ATTRIBUTE", an `OwnPolicy`, which `rounding` and `saturate` do not concern.
        sparsity: a thread with a zero operand leaves the multiplier to the others; False: all T threads always collide.
        rounding: of the reduced operands, "half_even" or "floor".
        saturate: reduced operands stay within 4 bits and a shift (at most 240 and 112); False lets them round up to
            256 and 128.

    Raises:
        ValueError: naming the value that is none of these.
    """

    threads: int = 1
    policy: str = "A"
    sparsity: bool = True
    rounding: str = "half_even"
    saturate: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or self.threads not in THREADS:
            raise ValueError(f"threads must be one of {THREADS}, not {self.threads!r}")
        if not isinstance(self.policy, str) or (self.policy not in POLICIES and not is_own(self.policy)):
            raise ValueError(f"policy must be one of {POLICIES}, or module:ATTRIBUTE, not {self.policy!r}")
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {ROUNDINGS}, not {self.rounding!r}")
        for name in ("sparsity", "saturate"):
            value: object = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}")
