"""Your own way to resolve a collision: `smt.policy=module:ATTRIBUTE` (docs/custom.md)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once
from bnrecal.nbsmt.tables import ACTIVATIONS, WEIGHTS, Factors, Integers, Product, check_factors, factor, product_tables
from bnrecal.nbsmt.user_code import find

MOST_THREADS = 4
Term = tuple[Callable[[int, int], int], Callable[[int], int]]


@dataclass(frozen=True)
class OwnPolicy:
    """A policy as a rule.

    Attributes:
        name: for people.
        product: product(a, b, active) is what a thread with activation a (0..255) and weight b (-128..127) adds to the
            sum while `active` threads (1..4), itself among them, are active. An integer; exactly a * b for one active
            thread; 0 where an operand is 0.
        terms: pairs of functions f(a, active), g(b), of which the products add up to the rule. None: they are worked
            out.
    """

    name: str
    product: Product
    terms: Sequence[Term] | None = None


def is_own(policy: str) -> bool:
    """Whether a setting names a policy outside the package."""
    return ":" in policy


@cache
def load_policy(policy: str) -> OwnPolicy:
    """The policy that `module:ATTRIBUTE` names; the current folder is searched too.

    Raises:
        BnrecalError: if there is none.
    """
    found: Any = find("smt.policy", policy, "policy")
    if not (isinstance(getattr(found, "name", None), str) and callable(getattr(found, "product", None))):
        raise BnrecalError(f"smt.policy={policy} is no policy: it needs a name and product(a, b, active)")
    return OwnPolicy(found.name, found.product, getattr(found, "terms", None))


@cache
def policy_tables(policy: str) -> Integers:
    """int64 (4, 256, 256): every product of the policy, as `product_tables` gives and checks them."""
    return product_tables(load_policy(policy).product, MOST_THREADS, f"smt.policy={policy}")


@cache
def policy_factors(policy: str, threads: int) -> Factors:
    """The policy as terms, compared with every product of its rule for up to so many active threads.

    Raises:
        BnrecalError: at the first operand pair that differs, or if too many terms are needed.
    """
    what, tables, terms = f"smt.policy={policy}", policy_tables(policy)[:threads], load_policy(policy).terms
    if terms is None:
        return factor(tables, what)
    activations = [[[f(a, p) for f, _ in terms] for a in ACTIVATIONS] for p in range(1, threads + 1)]
    weights = [[g(b) for b in WEIGHTS] for _, g in terms]
    factors = Factors(np.array(activations, np.int64), np.array(weights, np.int64))
    check_factors(factors, tables, what)
    return factors


def check_policy(policy: str) -> None:
    """Load a policy of the user's own and compare its terms with its rule, for every operand and number of threads.

    One that never differs from a * b is warned of.

    Raises:
        BnrecalError: at the first operand pair that is wrong.
    """
    if is_own(policy):
        policy_factors(policy, 2)
        policy_factors(policy, MOST_THREADS)
        tables = policy_tables(policy)
        if (tables == tables[0]).all():
            warn_once(f"smt.policy={policy} multiplies exactly however many threads are active: nothing is lost")


def fingerprint(policy: str) -> str:
    """A hash of every product: another rule under the same name is another experiment."""
    return hashlib.sha256(policy_tables(policy).tobytes()).hexdigest()[:16]
