"""What happens to a product when exactly two threads are active: one object per policy."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


class Value(IntEnum):
    """What is sent in place of an activation a."""

    ZERO = 0
    EXACT = 1  # a
    REDUCED = 2  # r(a)
    NARROW = 3  # a where a <= 15, else 0
    WIDE = 4  # a where a > 15, else 0


# A function of the weight alone: b itself, r(b), r(b) - b, and b where it lies inside or outside [-8, 7], else 0.
WeightPart = Literal["b", "rb", "e", "narrow", "wide"]
# When an operand loses bits to its one partner: always, or only while the other operand of its product is wide.
When = Literal["active", "wide"]


@dataclass(frozen=True)
class Term:
    """One product: a part of the weight times what is sent for the activation.

    Attributes:
        part: of the weight.
        values: sent while 0, 1, and 2 or more partners are active.
    """

    part: WeightPart
    values: tuple[Value, Value, Value]


@dataclass(frozen=True)
class Policy:
    """Which operand gives way.

    Attributes:
        name: as settings give it.
        terms: products whose sum is what an active thread contributes. Neighbours (first and second, third and fourth)
            share a multiply-add instruction, so terms that one weight needs together stand together.
        collide: what the golden model computes for one of exactly two active threads, from a, b, r(a), r(b).
        activation_reduced: when r(a) replaces a in such a collision, None: never; wide is said of b.
        weight_reduced: the same of r(b) and b; wide is said of a.
    """

    name: str
    terms: tuple[Term, ...]
    collide: Callable[[int, int, int, int], int]
    activation_reduced: When | None = None
    weight_reduced: When | None = None


_Z, _A, _R, _S, _L = Value.ZERO, Value.EXACT, Value.REDUCED, Value.NARROW, Value.WIDE
# At none active partner every policy is a * b, at two and more r(a) * r(b): the middle column is the policy.
_ALL = (
    Policy(
        "A",
        (Term("b", (_A, _R, _R)), Term("e", (_Z, _Z, _R))),
        lambda _a, b, ra, _rb: ra * b,
        activation_reduced="active",
    ),
    Policy(
        "Aw",
        (Term("wide", (_A, _R, _R)), Term("e", (_Z, _Z, _R)), Term("narrow", (_A, _A, _R))),
        lambda a, b, ra, _rb: a * b if -8 <= b <= 7 else ra * b,
        activation_reduced="wide",
    ),
    Policy(
        "W",
        (Term("b", (_A, _Z, _Z)), Term("rb", (_Z, _A, _R))),
        lambda a, _b, _ra, rb: a * rb,
        weight_reduced="active",
    ),
    Policy(
        "aW",
        (Term("b", (_A, _S, _Z)), Term("rb", (_Z, _L, _R))),
        lambda a, b, _ra, rb: a * rb if a > 15 else a * b,
        weight_reduced="wide",
    ),
)
POLICIES = {policy.name: policy for policy in _ALL}


def built_in(policy: object) -> Policy:
    """One of the package's policies by its name; not for one from outside."""
    assert isinstance(policy, str)
    return POLICIES[policy]
