"""Tables of products, factored exactly into few integer products of a function of a and a function of b.

A rule says what an active thread contributes for operands a and b when p threads are active. Its tables for p = 1..T,
stacked, are an integer matrix with a row for every (p, a) and a column for every b. The rows span a lattice; with a
basis G of that lattice every row is an integer combination F of basis vectors, so that

    product(a, b, p) = sum over r of F[p, a, r] * G[r, b]

with as few terms as the matrix has rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnrecal.errors import BnrecalError, with_place

Integers = npt.NDArray[np.int64]
Product = Callable[[int, int, int], int]

ACTIVATIONS = range(256)
WEIGHTS = range(-128, 128)
MOST_TERMS = 8  # each costs input channels of the convolution
LARGEST_PRODUCT = 2**16  # 32 bits then hold the sum of 32,768 products


@dataclass(frozen=True, eq=False)
class Factors:
    """product(a, b, p) = sum over r of of_activation[p - 1, a, r] * of_weight[r, b + 128], for p = 1..T.

    Attributes:
        of_activation: int64 (T, 256, terms), within 16 bits.
        of_weight: int64 (terms, 256), within 16 bits.
    """

    of_activation: Integers
    of_weight: Integers

    @property
    def terms(self) -> int:
        return len(self.of_weight)


def product_tables(product: Product, threads: int, name: str) -> Integers:
    """Return int64 (T, 256, 256): product(a, b, p) at [p - 1, a, b + 128], asked for every operand.

    Raises:
        BnrecalError: for a rule that gives no integers or too large ones, changes the product of a thread that is
            active alone, or makes something out of a zero operand; with the first operand pair where it does.
    """
    places = [(p, a, b) for p in range(1, threads + 1) for a in ACTIVATIONS for b in WEIGHTS]
    values = ask(product, places, name)
    for (p, a, b), value in zip(places, values, strict=True):
        if not isinstance(value, int):
            raise BnrecalError(f"{name}: product(a={a}, b={b}, active={p}) is {value!r}, not an integer")
        if abs(value) > LARGEST_PRODUCT:
            raise BnrecalError(f"{name}: product(a={a}, b={b}, active={p}) is {value}: at most {LARGEST_PRODUCT} do")
    tables = np.array(values, np.int64).reshape(threads, len(ACTIVATIONS), len(WEIGHTS))
    exact = np.arange(256)[:, None] * np.arange(-128, 128)[None, :]
    _refuse(tables[:1] != exact, tables, name, "one active thread multiplies exactly")
    zero = np.zeros_like(tables, bool)
    zero[:, 0], zero[:, :, 128] = True, True
    _refuse(zero & (tables != 0), tables, name, "a zero operand must give 0")
    return tables


def ask(product: Product, places: Sequence[tuple[int, int, int]], name: str) -> list[int]:
    """Return a rule's products for each (active, a, b)."""
    try:
        return [product(a, b, p) for p, a, b in places]
    except Exception as error:  # whatever the user's code raises, reported with its place
        raise BnrecalError(f"{name}: its product fails: {with_place(error)}") from error


def _refuse(wrong: npt.NDArray[np.bool_], tables: Integers, name: str, why: str) -> None:
    if wrong.any():
        p, a, b = np.argwhere(wrong)[0].tolist()
        raise BnrecalError(f"{name}: product(a={a}, b={b - 128}, active={p + 1}) is {tables[p, a, b]}: {why}")


def factor(tables: Integers, name: str) -> Factors:
    """Return the tables as sums of integer products.

    Args:
        tables: int64 (T, 256, 256), as `product_tables` makes them.

    Raises:
        BnrecalError: with the rank, if more than MOST_TERMS terms are needed; if factors leave 16 bits.
    """
    rows = tables.reshape(-1, tables.shape[2])
    basis = _lattice_basis(np.unique(rows, axis=0))
    if basis is None:
        rank = int(np.linalg.matrix_rank(rows.astype(np.float64)))
        raise BnrecalError(
            f"{name}: its products need {rank} terms (a function of a times a function of b), "
            f"at most {MOST_TERMS} are possible"
        )
    coordinates = _coordinates(rows, basis)
    _shorten(basis, coordinates)
    factors = Factors(coordinates.reshape(*tables.shape[:2], len(basis)), basis)
    check_factors(factors, tables, name)
    return factors


def check_factors(factors: Factors, tables: Integers, name: str) -> None:
    """Compare terms with every product.

    Raises:
        BnrecalError: at the first operand pair that differs; if factors leave 16 bits.
    """
    for values in (factors.of_activation, factors.of_weight):
        if abs(values).max(initial=0) >= 2**15:
            raise BnrecalError(f"{name}: its terms hold {abs(values).max()}, more than 16 bits")
    sums = factors.of_activation @ factors.of_weight
    differs = np.argwhere(sums != tables)
    if len(differs):
        p, a, b = differs[0].tolist()
        raise BnrecalError(
            f"{name}: its terms give {sums[p, a, b]} for a={a}, b={b - 128} with {p + 1} active threads, "
            f"its rule {tables[p, a, b]}"
        )


def _lattice_basis(rows: Integers) -> Integers | None:
    """Return a basis, in echelon form, of the lattice that the rows span; None if it needs more than MOST_TERMS."""
    basis: list[Integers] = []  # by pivot: the first non-zero column, positive there
    for row in rows[np.argsort(abs(rows).sum(1), kind="stable")]:
        if not _insert(basis, row.copy()):
            continue
        if len(basis) > MOST_TERMS:
            return None
        for above in range(len(basis)):
            for below in range(above + 1, len(basis)):  # entries stay small: at pivots, below the pivot
                pivot = _pivot(basis[below])
                basis[above] = basis[above] - basis[above][pivot] // basis[below][pivot] * basis[below]
    return np.array(basis, np.int64).reshape(-1, rows.shape[1])


def _insert(basis: list[Integers], row: Integers) -> bool:
    """Add a row to the lattice, by Euclid's algorithm against the basis vector with the same pivot.

    Returns:
        Whether it was new.
    """
    place = 0
    new = False
    while row.any():
        pivot = _pivot(row)
        while place < len(basis) and _pivot(basis[place]) < pivot:
            place += 1
        if place == len(basis) or _pivot(basis[place]) > pivot:
            basis.insert(place, row if row[pivot] > 0 else -row)
            return True
        if row[pivot] % basis[place][pivot] == 0:
            row = row - row[pivot] // basis[place][pivot] * basis[place]
            continue
        new = True
        while row[pivot]:
            quotient = basis[place][pivot] // row[pivot]
            basis[place], row = row, basis[place] - quotient * row
        if basis[place][pivot] < 0:
            basis[place] = -basis[place]
    return new


def _pivot(row: Integers) -> int:
    """Return the first column that is not zero."""
    return int(np.flatnonzero(row)[0])


def _coordinates(rows: Integers, basis: Integers) -> Integers:
    """Return the coordinates of rows of the lattice in its basis, int64 (rows, terms)."""
    rest = rows.copy()
    coordinates = np.zeros((len(rows), len(basis)), np.int64)
    for number, vector in enumerate(basis):
        pivot = _pivot(vector)
        coordinates[:, number] = rest[:, pivot] // vector[pivot]
        rest -= coordinates[:, number, None] * vector
    return coordinates


def _shorten(basis: Integers, coordinates: Integers) -> None:
    """Take multiples of basis vectors off others, in place, while that makes them shorter; coordinates follow."""
    shorter = True
    while shorter:
        shorter = False
        for one in range(len(basis)):
            for other in range(len(basis)):
                overlap = int(basis[one] @ basis[other])
                square = int(basis[other] @ basis[other])
                quotient = (2 * overlap + square) // (2 * square) if one != other else 0
                if quotient and 2 * abs(overlap) > square:  # not at a tie, which would go back and forth
                    basis[one] -= quotient * basis[other]
                    coordinates[:, other] += quotient * coordinates[:, one]
                    shorter = True
