"""Threads per layer as a knapsack: least total loss at a given speedup, by integer programming."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from bnrecal.errors import BnrecalError
from bnrecal.quantization.layer_plan import speedup as speedup_of

ROUNDING = 1e-9  # relative slack, so that a speedup computed from a choice admits that very choice
TOLERANCE = 1e-6  # of the solver: on constraints, in absolute terms, and on how far a binary variable is from 0 or 1
SCALE = 1e4  # of the time constraint: TOLERANCE / SCALE must stay below ROUNDING


class Layer(Protocol):
    """A layer as a speedup sees it: its name and its multiply-accumulates for one image."""

    @property
    def name(self) -> str: ...

    @property
    def macs(self) -> int: ...


@dataclass(frozen=True)
class Item:
    """One layer and what each of its thread counts costs.

    Attributes:
        macs: multiply-accumulates for one image.
        losses: thread count to loss; only these counts may be chosen.
    """

    name: str
    macs: int
    losses: Mapping[int, float]


def mixed_speedup(layers: Sequence[Layer], threads: Mapping[str, int], fixed_macs: int = 0) -> float:
    """sum(MACs) / sum(MACs / threads), `fixed_macs` running one thread."""
    return speedup_of([(fixed_macs, 1), *((layer.macs, threads[layer.name]) for layer in layers)])


def reachable(items: Sequence[Item], fixed_macs: int = 0) -> tuple[float, float]:
    """The lowest and the highest speedup that any choice gives."""
    slowest = {item.name: min(item.losses) for item in items}
    fastest = {item.name: max(item.losses) for item in items}
    return mixed_speedup(items, slowest, fixed_macs), mixed_speedup(items, fastest, fixed_macs)


def check_speedup(items: Sequence[Item], speedup: float, fixed_macs: int = 0) -> None:
    """Raise BnrecalError if no choice reaches `speedup`, naming what can be reached."""
    lowest, highest = reachable(items, fixed_macs)
    if not 0 < speedup <= highest * (1 + ROUNDING):
        raise BnrecalError(
            f"speedup={speedup} cannot be reached: this network's thread counts give {lowest:.3f} to {highest:.3f}"
        )


def solve(items: Sequence[Item], speedup: float, fixed_macs: int = 0) -> dict[str, int]:
    """The thread counts of least total loss among those that reach a speedup, exactly (HiGHS).

    One binary variable for each layer and thread count; one of them is set per layer; the time
    sum(MACs / threads) is at most sum(MACs) / speedup.

    Args:
        items: at least one.
        speedup: the least allowed.
        fixed_macs: of layers that run one thread whatever is chosen.

    Raises:
        BnrecalError: if no choice is that fast, naming the reachable range.
    """
    check_speedup(items, speedup, fixed_macs)
    options = [(row, item, threads) for row, item in enumerate(items) for threads in item.losses]
    one_each = np.zeros((len(items), len(options)))
    for column, (row, _, _) in enumerate(options):
        one_each[row, column] = 1
    total = fixed_macs + sum(item.macs for item in items)
    time = np.array([item.macs / threads for _, item, threads in options]) * (SCALE / total)
    budget = SCALE * (1 / speedup - fixed_macs / total) + SCALE * ROUNDING
    losses = _scaled([item.losses[threads] for _, item, threads in options])
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(time[None], -np.inf, budget)]
    while True:
        solution = milp(
            losses,
            integrality=np.ones(len(options)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0, "presolve": False},  # with presolve, scipy 1.17's HiGHS prints to stdout
            constraints=constraints,
        )
        if solution.x is None:
            raise BnrecalError(f"speedup={speedup}: the solver found no choice of threads ({solution.message})")
        chosen = solution.x > 0.5
        if time[chosen].sum() <= budget + TOLERANCE:
            return {item.name: threads for (_, item, threads), one in zip(options, chosen, strict=True) if one}
        # A variable of 1 - TOLERANCE is shorter than the choice that it stands for: go on without this choice.
        constraints.append(LinearConstraint(chosen[None].astype(np.float64), -np.inf, len(items) - 1))


def _scaled(losses: Sequence[float]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Losses of the order of one: the solver's tolerances are absolute."""
    values = np.array(losses, dtype=np.float64)
    largest = np.abs(values).max()
    return values / largest if largest > 0 else values
