"""The package's policies: what happens to a product when exactly two threads are active."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeVar

Operands = TypeVar("Operands")  # an activation, or many: a tensor, or a vector of a kernel
Choice = Literal["0", "a", "r"]  # zero, a itself, or r(a)


class Value(IntEnum):
    """An activation a, or the operand that replaces it in a product.

    The engines derive from these lines what they compute; a policy may need another line.

    Attributes:
        narrow: what it is of an activation that fits 4 bits (a <= 15, where r(a) is a).
        wide: what it is of a larger one.
    """

    narrow: Choice
    wide: Choice

    ZERO = 0, "0", "0"
    EXACT = 1, "a", "a"
    REDUCED = 2, "r", "r"
    NARROW = 3, "a", "0"
    WIDE = 4, "0", "a"

    def __new__(cls, number: int, narrow: Choice, wide: Choice) -> "Value":
        """Make the member with this number: consecutive ones from 0 on, which kernels use as places."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.narrow = narrow
        member.wide = wide
        return member

    def of(
        self, zero: Operands, a: Operands, reduced: Operands, by_width: Callable[[Operands, Operands], Operands]
    ) -> Operands:
        """Return this value of activations.

        Args:
            zero, a, reduced: 0, the activations, and r(a).
            by_width: (narrow, wide) to narrow where the activation fits 4 bits, else wide.

        Example:
            >>> Value.WIDE.of(0, 200, 192, lambda narrow, wide: narrow if 200 <= 15 else wide)
            200
        """
        choices = {"0": zero, "a": a, "r": reduced}
        if self.narrow == self.wide:
            return choices[self.narrow]
        return by_width(choices[self.narrow], choices[self.wide])

    def excludes(self, other: "Value") -> bool:
        """Return whether of both values of one activation at most one is ever non-zero."""
        return "0" in (self.narrow, other.narrow) and "0" in (self.wide, other.wide)


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
