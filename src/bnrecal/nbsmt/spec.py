"""The machine that is emulated: threads that share a multiplier, and how a collision between them is resolved."""

from dataclasses import dataclass, replace

from bnrecal.nbsmt.policies.custom import AnyPolicy, is_custom, is_rule, pinned
from bnrecal.options import POLICIES, ROUNDINGS, THREADS


@dataclass(frozen=True)
class SmtSpec:
    """One NB-SMT machine.

    Attributes:
        threads: T, dot products in flight on one processing element: 1 (the plain 8-bit convolution), 2 or 4.
        policy: which operand gives way when exactly two threads are active: "A" the activation; "Aw" the
            activation, unless the weight fits 4 bits anyway; "W" the weight; "aW" the weight, unless the
            activation fits 4 bits anyway. More than two active threads reduce both operands under all of these. Or
            a `CustomPolicy`, or its "module:ATTRIBUTE", which `rounding` and `saturate` do not concern. The
            products of an object are worked out at once: a `PinnedPolicy` of its name takes its place.
        sparsity: a thread with a zero operand leaves the multiplier to the others; False: all T threads always collide.
        rounding: of the reduced operands, "half_even" or "floor".
        saturate: reduced operands stay within 4 bits and a shift (at most 240 and 112); False lets them round up to
            256 and 128.

    Raises:
        ValueError: naming the value that is none of these.
        BnrecalError: for a policy object, at the first operand pair that is wrong.

    Examples:
        >>> import bnrecal
        >>> bnrecal.SmtSpec(threads=4, policy="Aw")
        SmtSpec(threads=4, policy='Aw', sparsity=True, rounding='half_even', saturate=True)
        >>> bnrecal.SmtSpec(threads=3)
        Traceback (most recent call last):
        ValueError: threads must be one of (1, 2, 4), not 3
    """

    threads: int = 1
    policy: AnyPolicy = "A"
    sparsity: bool = True
    rounding: str = "half_even"
    saturate: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or self.threads not in THREADS:
            raise ValueError(f"threads must be one of {THREADS}, not {self.threads!r}")
        known = (
            self.policy in POLICIES or is_custom(self.policy) if isinstance(self.policy, str) else is_rule(self.policy)
        )
        if not known:
            raise ValueError(
                f"policy must be one of {POLICIES}, or module:ATTRIBUTE, or a CustomPolicy, not {self.policy!r}"
            )
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {ROUNDINGS}, not {self.rounding!r}")
        for name in ("sparsity", "saturate"):
            value: object = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}")
        if not isinstance(self.policy, str):
            object.__setattr__(self, "policy", pinned(self.policy))

    def pinned(self) -> "SmtSpec":
        """The same machine with a policy from outside as it is now, whatever its name will mean later."""
        return replace(self, policy=pinned(self.policy)) if is_custom(self.policy) else self
