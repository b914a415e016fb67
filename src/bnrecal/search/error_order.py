"""The highest-error order: all layers run four threads, but for the k layers of highest error.

The paper leaves open which layers are best to slow down; this is the order that needs least thought.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.standard_error import of_mean
from bnrecal.experiment.layer_report import gather_collisions, scaled_errors
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.variant import Variant
from bnrecal.search.knapsack import Layer, mixed_speedup
from bnrecal.search.sensitivity import FASTEST, threadable

Threads = dict[str, int]


@dataclass(frozen=True)
class FourThreads:
    """Errors and collisions with four threads everywhere, without recalibration, on calibration images.

    Attributes:
        order: the convolutions that can run several threads, highest mean squared error first (of the layer's output
            in squared activation units, against its exact 8-bit output).
        collisions: share of the processing elements' steps with two or more active threads, in these convolutions.
    """

    order: list[str]
    collisions: float


def at_four_threads(experiment: Experiment) -> FourThreads:
    """Measure errors and collisions with four threads everywhere."""
    four = Variant(FASTEST, False)
    prepared = prepare_variants(experiment, [four])[four]
    everywhere = gather_collisions(experiment, prepared)
    gathered = {layer.name: everywhere[layer.name] for layer in threadable(experiment)}
    errors = {name: scaled_errors(prepared.layers[name], collisions)[0] for name, collisions in gathered.items()}
    colliding = sum(sum(collisions.steps_by_active[2:]) for collisions in gathered.values())
    steps = sum(collisions.steps for collisions in gathered.values())
    return FourThreads(sorted(errors, key=lambda name: -errors[name]), float(colliding / steps))


def slowed(order: Sequence[str], count: int, slow: int) -> Threads:
    """The first `count` layers of `order` at `slow` threads, the others at four."""
    return {name: slow if place < count else FASTEST for place, name in enumerate(order)}


def spread(speedups: Sequence[float], points: int) -> list[int]:
    """`points` places in a falling sequence, both ends included, with the smallest gap as wide as can be.

    All places, where there are no more than that.
    """
    last = len(speedups) - 1
    if points > last:
        return list(range(last + 1))
    low = 0.0
    high = speedups[0] - speedups[last]
    for _ in range(50):  # bisection: a wider gap leaves room for fewer places
        gap = (low + high) / 2
        if len(_apart(speedups, gap)) >= points:
            low = gap
        else:
            high = gap
    return [*_apart(speedups, low)[: points - 1], last]


def _apart(speedups: Sequence[float], gap: float) -> list[int]:
    """Return as many places as there are, both ends among them, whose values differ by `gap` or more."""
    chosen = [0]
    last = len(speedups) - 1
    for place in range(1, last):
        if speedups[chosen[-1]] - speedups[place] >= gap and speedups[place] - speedups[last] >= gap:
            chosen.append(place)
    return [*chosen, last]


def slowest_prefix(
    layers: Sequence[Layer], order: Sequence[str], slow: int, speedup: float, fixed: int = 0
) -> Threads | None:
    """Slow as many layers of `order` as `speedup` allows; None if even four threads everywhere are slower."""
    fitting = (slowed(order, count, slow) for count in range(len(order), -1, -1))
    return next((t for t in fitting if mixed_speedup(layers, t, fixed) >= speedup * (1 - 1e-9)), None)


def paired_error(one: Bools, other: Bools) -> float:
    """Standard error of the difference of two accuracies on the same images, in percentage points."""
    difference = one.astype(np.float64) - other.astype(np.float64)
    return 100 * of_mean(difference, ddof=0)
