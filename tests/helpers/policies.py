"""Policies as a user writes them, good and bad."""

from bnrecal.nbsmt.policies.builtin import POLICIES
from bnrecal.nbsmt.policies.custom import CustomPolicy
from bnrecal.nbsmt.reference import reduced_activation, reduced_weight


def drop_bits(a: int, b: int, active: int) -> int:
    """Both operands lose one low bit for each other active thread."""
    if active == 1:
        return a * b
    return (a >> (active - 1) << (active - 1)) * (b >> (active - 1) << (active - 1))


def built_in(name: str) -> CustomPolicy:
    """One of the package's policies as a rule."""

    def product(a: int, b: int, active: int) -> int:
        ra = reduced_activation(a, "half_even", True)
        rb = reduced_weight(b, "half_even", True)
        return a * b if active == 1 else ra * rb if active > 2 else POLICIES[name].collide(a, b, ra, rb)

    return CustomPolicy(name, product)


class _BuiltIn:
    """All of them, as attributes."""

    def __init__(self) -> None:
        vars(self).update({name: built_in(name) for name in POLICIES})


DROP = CustomPolicy("drop", drop_bits)
BUILT_IN = _BuiltIn()


class Plain:
    """Any object with a name and a rule does; here with terms by hand."""

    name = "weights to multiples of 4"
    terms = (
        (lambda a, active: a if active == 1 else 0, lambda b: b),
        (lambda a, active: a * (active > 1), lambda b: b & ~3),
    )

    @staticmethod
    def product(a: int, b: int, active: int) -> int:
        return a * b if active == 1 else a * (b & ~3)


BY_HAND = Plain()
SLIPPED = CustomPolicy("slipped", Plain.product, ((lambda a, _: a, lambda b: b),))
EXACT = CustomPolicy("exact", lambda a, b, _: a * b)
INEXACT = CustomPolicy("inexact", lambda a, b, _: a * (b & ~1))
FROM_NOTHING = CustomPolicy("from nothing", lambda a, b, active: a * b + (active == 3))
FRACTION = CustomPolicy("fraction", lambda a, b, active: a * b / active)  # type: ignore[arg-type, return-value]
MANY_TERMS = CustomPolicy("many terms", lambda a, b, active: a * b if active == 1 else a * b >> 4 << 4)
LARGE = CustomPolicy("large", lambda a, b, active: a * b * active)
RAISES = CustomPolicy("raises", lambda a, b, active: a * b // (2 - active))
