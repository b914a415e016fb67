"""Your own way to resolve a collision: `smt.policy=module:ATTRIBUTE`, or a policy object (docs/custom.md)."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import numpy as np

from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once
from bnrecal.nbsmt.policies.factorize import (
    ACTIVATIONS,
    WEIGHTS,
    Factors,
    Integers,
    Product,
    ask,
    check_factors,
    factor,
    product_tables,
)
from bnrecal.user_objects import find_object

MOST_THREADS = 4
# Operands that a rule is asked for again to see that it is still what it was: (active, a, b), every a and every b.
AGAIN = [(p, a, (97 * a + 31 * p) % 256 - 128) for p in range(2, MOST_THREADS + 1) for a in ACTIVATIONS]
Term = tuple[Callable[[int, int], int], Callable[[int], int]]


class Rule(Protocol):
    """A policy from outside the package: any object with these two does."""

    @property
    def name(self) -> str:
        """A name for people."""

    @property
    def product(self) -> Product:
        """The rule, as `CustomPolicy` has it."""


@dataclass(frozen=True)
class CustomPolicy:
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


@dataclass(frozen=True)
class PinnedPolicy:
    """A policy with all its products worked out: it stays what it was, whatever becomes of the rule and its name.

    Equal to another of the same name and products. It can be pickled, whatever the rule is.

    Attributes:
        name: what results and `print` show: "module:ATTRIBUTE", or the name of the object.
        digest: SHA-256 of the products, in hexadecimal.
        tables: int64 (4, 256, 256), as `product_tables` gives and checks them.
        given: the rule's own terms, if it has any.
    """

    name: str
    digest: str
    tables: Integers = field(repr=False, compare=False)
    given: Factors | None = field(default=None, repr=False, compare=False)

    def product(self, a: int, b: int, active: int) -> int:
        """Return the product of a and b, as `CustomPolicy` has it."""
        return int(self.tables[active - 1, a, b + 128])

    def __str__(self) -> str:
        return self.name


AnyPolicy: TypeAlias = str | Rule


def is_custom(policy: AnyPolicy) -> bool:
    """Return whether a policy is one from outside the package: an object, or "module:ATTRIBUTE"."""
    return not isinstance(policy, str) or ":" in policy


def is_rule(policy: object) -> bool:
    """Return whether an object is a `Rule`."""
    return isinstance(getattr(policy, "name", None), str) and callable(getattr(policy, "product", None))


def load_policy(policy: AnyPolicy) -> Rule:
    """Return the object itself, or the one that `module:ATTRIBUTE` names now; the current folder is searched too."""
    if not isinstance(policy, str):
        return policy
    loaded: Any = find_object("smt.policy", policy, "policy")
    if not is_rule(loaded):
        raise BnrecalError(f"smt.policy={policy} is no policy: it needs a name and product(a, b, active)")
    rule: Rule = loaded
    return rule


Content = tuple[Product, Sequence[Term] | None]  # of a rule: its functions
_pinned: dict[str, tuple[Content, PinnedPolicy]] = {}  # the last rule of each name


def pinned(policy: AnyPolicy) -> PinnedPolicy:
    """Return the policy as it is now, every product checked.

    A rule that was pinned before is asked for some of them again, and for all where one differs.

    Raises:
        BnrecalError: if there is no such policy, or at the first operand pair that is wrong.
    """
    if isinstance(policy, PinnedPolicy):
        return policy
    rule = load_policy(policy)
    name = policy if isinstance(policy, str) else rule.name
    content = (rule.product, getattr(rule, "terms", None))
    if name not in _pinned or not _is_still(content, *_pinned[name]):
        _pinned[name] = (content, _pin(name, *content))
    return _pinned[name][1]


def _is_still(content: Content, earlier: Content, policy: PinnedPolicy) -> bool:
    if content != earlier:
        return False
    # the same function may see another global now
    return ask(content[0], AGAIN, _title(policy.name)) == [policy.product(a, b, p) for p, a, b in AGAIN]


def _pin(name: str, product: Product, terms: Sequence[Term] | None) -> PinnedPolicy:
    tables = product_tables(product, MOST_THREADS, _title(name))
    given = None if terms is None else _factors_of(terms)
    return PinnedPolicy(name, hashlib.sha256(tables.tobytes()).hexdigest(), tables, given)


def _factors_of(terms: Sequence[Term]) -> Factors:
    """Return every value of a rule's own terms."""
    of_activation = np.zeros((MOST_THREADS, len(ACTIVATIONS), len(terms)), np.int64)
    of_weight = np.zeros((len(terms), len(WEIGHTS)), np.int64)
    for number, (f, g) in enumerate(terms):
        for active in range(1, MOST_THREADS + 1):
            of_activation[active - 1, :, number] = [f(a, active) for a in ACTIVATIONS]
        of_weight[number] = [g(b) for b in WEIGHTS]
    return Factors(of_activation, of_weight)


def _title(name: str) -> str:
    return f"smt.policy={name}" if ":" in name else f"the policy {name}"


def policy_factors(policy: AnyPolicy, threads: int) -> Factors:
    """Return the policy as terms, compared with every product of its rule for up to so many active threads.

    Raises:
        BnrecalError: at the first operand pair that differs, or if too many terms are needed.
    """
    policy = pinned(policy)
    tables = policy.tables[:threads]
    if policy.given is None:
        return _factored(policy, threads)
    factors = Factors(policy.given.of_activation[:threads], policy.given.of_weight)
    check_factors(factors, tables, _title(policy.name))
    return factors


@lru_cache(maxsize=64)
def _factored(policy: PinnedPolicy, threads: int) -> Factors:
    return factor(policy.tables[:threads], _title(policy.name))


def check_policy(policy: AnyPolicy) -> None:
    """Compare a policy's terms with its rule, for every operand and number of threads, if it is one from outside.

    One that never differs from a * b is warned of.

    Raises:
        BnrecalError: if there is no such policy, or at the first operand pair that is wrong.
    """
    if is_custom(policy):
        policy = pinned(policy)
        policy_factors(policy, 2)
        policy_factors(policy, MOST_THREADS)
        if (policy.tables == policy.tables[0]).all():
            warn_once(f"{_title(policy.name)} multiplies exactly however many threads are active: nothing is lost")


def fingerprint(policy: AnyPolicy) -> str:
    """Return a hash of every product: another rule under the same name is another experiment."""
    return pinned(policy).digest[:16]
