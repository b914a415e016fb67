"""The rules of the package's policies, by hand."""

import pytest

from bnrecal.nbsmt.policies.builtin import POLICIES
from bnrecal.nbsmt.reference import reduced_activation, reduced_weight

# (a, b), and what each policy makes of a * b while two threads are active: r(40) = 32, r(-20) = -16, r(8) = 0
PRODUCTS = {
    (40, -20): {"A": 32 * -20, "Aw": 32 * -20, "W": 40 * -16, "aW": 40 * -16},
    (40, 5): {"A": 32 * 5, "Aw": 40 * 5, "W": 40 * 5, "aW": 40 * 5},
    (9, -20): {"A": 9 * -20, "Aw": 9 * -20, "W": 9 * -16, "aW": 9 * -20},
    (16, -20): {"A": 16 * -20, "Aw": 16 * -20, "W": 16 * -16, "aW": 16 * -16},
    (40, -8): {"A": 32 * -8, "Aw": 40 * -8, "W": 40 * -8, "aW": 40 * -8},
    (40, 8): {"A": 32 * 8, "Aw": 32 * 8, "W": 40 * 0, "aW": 40 * 0},
}


@pytest.mark.parametrize("operands", PRODUCTS)
def test_products_of_two_active_threads(operands: tuple[int, int]) -> None:
    a, b = operands
    ra = reduced_activation(a, "half_even", True)
    rb = reduced_weight(b, "half_even", True)
    for name, expected in PRODUCTS[operands].items():
        assert POLICIES[name].collide(a, b, ra, rb) == expected, name


def test_alone_nothing_is_reduced_and_among_three_both_operands_are() -> None:
    for policy in POLICIES.values():
        for wide in (False, True):
            assert policy.reduces(1, wide, wide) == (False, False)
            assert policy.reduces(3, wide, wide) == (True, True)
            assert policy.reduces(4, wide, wide) == (True, True)
