"""The package's policies: what happens to a product when exactly two threads are active."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


class Value(IntEnum):
    """An activation a, or the operand that replaces it in a product."""

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
    """One product: a part of the weight times a value of the activation.

    Attributes:
        part: of the weight.
        values: the activation's while 0, 1, and 2 or more partners are active.
    """

    part: WeightPart
    values: tuple[Value, Value, Value]


@dataclass(frozen=True)
class Policy:
    """The operand of a product that is reduced in a collision, and the same rule as terms for the engines.

    Attributes:
        name: as settings give it.
        terms: products whose sum an active thread contributes. Neighbours (first and second, third and fourth) share a
            multiply-add instruction, so terms that one weight needs together are neighbours.
        activation_reduced: when r(a) replaces a if exactly two threads are active: "active" always, "wide" only where b
            does not fit 4 bits, None never.
        weight_reduced: when r(b) replaces b then: "active" always, "wide" only where a does not fit 4 bits, None never.
    """

    name: str
    terms: tuple[Term, ...]
    activation_reduced: When | None = None
    weight_reduced: When | None = None

    def reduces(self, active: int, a_is_wide: bool, b_is_wide: bool) -> tuple[bool, bool]:
        """Return whether r(a) replaces a, and whether r(b) replaces b.

        Args:
            active: how many threads are active; with one nothing is reduced, with three or more both operands are.
            a_is_wide, b_is_wide: whether an operand does not fit into the multiplier's narrow input.
        """
        if active != 2:
            return active > 2, active > 2
        return _applies(self.activation_reduced, b_is_wide), _applies(self.weight_reduced, a_is_wide)

    def collide(self, a: int, b: int, ra: int, rb: int) -> int:
        """Return the product of one of exactly two active threads, from a, b, r(a) and r(b) of 4 bits."""
        reduce_a, reduce_b = self.reduces(2, a > 15, not -8 <= b <= 7)
        return (ra if reduce_a else a) * (rb if reduce_b else b)


def _applies(when: When | None, other_is_wide: bool) -> bool:
    return when == "active" or (when == "wide" and other_is_wide)


_Z = Value.ZERO
_A = Value.EXACT
_R = Value.REDUCED
_S = Value.NARROW
_L = Value.WIDE
# At none active partner every policy is a * b, at two and more r(a) * r(b): the middle column is the policy.
_ALL = (
    Policy(
        "A",
        (Term("b", (_A, _R, _R)), Term("e", (_Z, _Z, _R))),
        activation_reduced="active",
    ),
    Policy(
        "Aw",
        (Term("wide", (_A, _R, _R)), Term("e", (_Z, _Z, _R)), Term("narrow", (_A, _A, _R))),
        activation_reduced="wide",
    ),
    Policy(
        "W",
        (Term("b", (_A, _Z, _Z)), Term("rb", (_Z, _A, _R))),
        weight_reduced="active",
    ),
    Policy(
        "aW",
        (Term("b", (_A, _S, _Z)), Term("rb", (_Z, _L, _R))),
        weight_reduced="wide",
    ),
)
POLICIES = {policy.name: policy for policy in _ALL}


def built_in(policy: object) -> Policy:
    """Return a built-in policy by its name; a custom policy has none here."""
    assert isinstance(policy, str)
    return POLICIES[policy]
