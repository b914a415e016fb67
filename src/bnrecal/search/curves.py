"""The curves of one network in Figure 1: accuracy over speedup, by the paper's choice of layers and by the search's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnrecal.evaluation.accuracy import Bools
from bnrecal.experiment.results import Result
from bnrecal.experiment.run import run_variants
from bnrecal.experiment.setup import Setup
from bnrecal.search.config import SearchConfig
from bnrecal.search.error_order import Threads, at_four_threads, paired_error, slowed, spread
from bnrecal.search.knapsack import mixed_speedup
from bnrecal.search.local_search import MSE_FIRST, Choice
from bnrecal.search.plans import prepare_search
from bnrecal.search.sensitivity import fixed_macs, threadable, variant_of


@dataclass(frozen=True)
class Point:
    """One operating point.

    Attributes:
        method: "mse_first", the paper's way, or "plan".
        target: the speedup it was chosen for.
        slowed: layers below four threads.
        choice: what the search measured; None for the paper's way.
    """

    method: str
    target: float
    threads: Threads
    slowed: int
    choice: Choice | None = None


def measure_curves(
    setup: Setup, points: int, slow: int, search: SearchConfig | None, folder: Path
) -> list[dict[str, Any]]:
    """One record a point and curve (columns of `figure1.csv`), all evaluated in one pass over the validation images.

    Args:
        points: of each curve, spread over the speedups from no layer slowed to all.
        slow: threads of the slowed layers.
        search: None for no curve of the search.
        folder: where sensitivities are kept.
    """
    four = at_four_threads(setup)
    usual = usual_points(setup, four.order, points, slow)
    planned = planned_points(setup, usual, search, folder) if search else []
    cells = [(point, recal) for point in usual for recal in (False, True)] + [(point, True) for point in planned]
    variants = [variant_of(setup, point.threads, recal=recal) for point, recal in cells]
    distinct = list(dict.fromkeys(variants))
    results = dict(zip(distinct, run_variants(setup, distinct), strict=True))
    fp32 = results[distinct[0]].fp32_outcome
    assert fp32 is not None
    beside = {point.target: results[variant_of(setup, point.threads, recal=True)] for point in usual}
    return [
        {**record(point, results[variant], fp32.top1, beside[point.target]), "collisions_4t": four.collisions}
        for (point, _), variant in zip(cells, variants, strict=True)
    ]


def usual_points(setup: Setup, order: Sequence[str], points: int, slow: int) -> list[Point]:
    """The paper's way: the k layers of highest error slowed, for k from none to all."""
    layers, fixed = threadable(setup), fixed_macs(setup)
    choices = [slowed(order, count, slow) for count in range(len(order) + 1)]
    speedups = [mixed_speedup(layers, threads, fixed) for threads in choices]
    return [Point("mse_first", speedups[count], choices[count], count) for count in spread(speedups, points)]


def planned_points(setup: Setup, usual: Sequence[Point], config: SearchConfig, folder: Path) -> list[Point]:
    """The search's choice at the speedup of each of the usual points.

    From the highest speedup down: what was good at a higher one starts the search at the next.
    """
    search = prepare_search(setup, config, folder, resume=setup.config.resume)
    found: list[Choice] = []
    points = []
    for point in sorted(usual, key=lambda p: -p.target):
        baseline = search.measure(point.threads, MSE_FIRST)
        choice = search.best(point.target, baseline, found)
        found.append(choice)
        below = sum(threads < 4 for threads in choice.threads.values())
        points.append(Point("plan", point.target, choice.threads, below, choice))
    return points


def record(point: Point, result: Result, fp32: Bools, usual: Result) -> dict[str, Any]:
    """A row of `figure1.csv`; accuracies in percent, differences in percentage points.

    Args:
        fp32: which images the float32 network got right.
        usual: the paper's way with recalibration at the same target.
    """
    assert result.outcome is not None
    assert usual.outcome is not None
    right = result.outcome.top1
    return {
        "model": result.model,
        "data": result.data,
        "curve": f"{point.method} {'w/' if result.recal else 'w/o'}",
        "method": point.method,
        "recal": result.recal,
        "target": point.target,
        "speedup": result.speedup,
        "cycles": result.cycles,
        "slowed": point.slowed,
        "layers": " ".join(f"{name}:{threads}" for name, threads in point.threads.items()),
        "images": result.images,
        "top1": result.top1,
        "stderr": result.stderr,
        "fp32_top1": result.fp32_top1,
        "a8w8_top1": result.a8w8_top1,
        "drop": result.drop,
        "drop_stderr": paired_error(fp32, right),
        "gain": result.gain,
        "gain_p": result.gain_p,
        "above_mse_first": result.top1 - usual.top1,
        "above_mse_first_stderr": paired_error(right, usual.outcome.top1),
        "origin": point.choice.origin if point.choice else None,
        "search_loss": point.choice.loss if point.choice else None,
        "search_loss_stderr": point.choice.stderr if point.choice else None,
        "seed": result.seed,
        "weights_hash": result.provenance["weights_hash"],
        "content": result.provenance["cell"],
    }
