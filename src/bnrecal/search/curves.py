"""The curves of one network in Figure 1: accuracy over speedup, with layers slowed in several ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnrecal.evaluation.accuracy import Bools, percent
from bnrecal.experiment.results import Result
from bnrecal.experiment.run import run_variants
from bnrecal.experiment.setup import Experiment
from bnrecal.search.config import SearchConfig
from bnrecal.search.error_order import Threads, at_four_threads, paired_error, slowed, spread
from bnrecal.search.knapsack import mixed_speedup
from bnrecal.search.local_search import HIGHEST_ERROR, Choice, Search
from bnrecal.search.plans import prepare_search
from bnrecal.search.random_order import RandomOrders, fair_choices
from bnrecal.search.records import CurveRecord, Method
from bnrecal.search.sensitivity import FASTEST, fixed_macs, threadable, variant_of


@dataclass(frozen=True)
class Point:
    """One operating point.

    Attributes:
        method: "highest_error" (the k layers of highest error slowed), "plan" (the search's choice) or "random"
            (the best of random orders, measured on as many images as the search).
        target: the speedup it was chosen for.
        slowed: layers below four threads.
        choice: what was measured on training images; None for the highest-error order, which measures nothing.
        evaluations: how many choices were measured on training images for the whole curve.
        evaluated_images: over how many images, all evaluations together.
    """

    method: Method
    target: float
    threads: Threads
    slowed: int
    choice: Choice | None = None
    evaluations: int = 0
    evaluated_images: int = 0


def measure_curves(
    experiment: Experiment, points: int, slow: int, search: SearchConfig | None, folder: Path
) -> list[CurveRecord]:
    """One record a point and curve, all evaluated in one pass over the validation images.

    Args:
        points: of each curve, spread over the speedups from no layer slowed to all.
        slow: threads of the slowed layers.
        search: None for no curve of the search.
        folder: where sensitivities are kept.
    """
    four = at_four_threads(experiment)
    usual = usual_points(experiment, four.order, points, slow)
    chosen = chosen_points(experiment, usual, search, folder) if search else []
    cells = [(point, recal) for point in usual for recal in (False, True)] + [(point, True) for point in chosen]
    variants = [variant_of(experiment, point.threads, recal=recal) for point, recal in cells]
    distinct = list(dict.fromkeys(variants))
    results = dict(zip(distinct, run_variants(experiment, distinct), strict=True))
    fp32 = results[distinct[0]].fp32_outcome
    assert fp32 is not None
    beside = {point.target: _right(results[variant_of(experiment, point.threads, recal=True)]) for point in usual}
    return [
        record(point, results[variant], fp32.top1, beside[point.target], four.collisions)
        for (point, _), variant in zip(cells, variants, strict=True)
    ]


def usual_points(experiment: Experiment, order: Sequence[str], points: int, slow: int) -> list[Point]:
    """The k layers of highest error slowed, for k from none to all."""
    layers = threadable(experiment)
    fixed = fixed_macs(experiment)
    choices = [slowed(order, count, slow) for count in range(len(order) + 1)]
    speedups = [mixed_speedup(layers, threads, fixed) for threads in choices]
    return [Point("highest_error", speedups[count], choices[count], count) for count in spread(speedups, points)]


def chosen_points(experiment: Experiment, usual: Sequence[Point], config: SearchConfig, folder: Path) -> list[Point]:
    """Points of the search and of random orders, at the speedup of each of the usual points.

    Both choose from the same thread counts and measure on the same training images, as many of them to the nearest
    choice (`fair_choices`); both are then judged on others.
    """
    search = prepare_search(experiment, config, folder, resume=experiment.config.resume)
    targets = sorted((point.target for point in usual), reverse=True)
    planned = _planned(search, sorted(usual, key=lambda point: -point.target))
    random = RandomOrders(search)
    random.measure(targets, fair_choices(search))
    drawn = [random.best(target) for target in targets]
    return [
        *_points("plan", targets, search, planned, search.evaluations, search.evaluated_images),
        *_points("random", targets, search, drawn, random.evaluations, random.evaluated_images),
    ]


def _planned(search: Search, usual: Sequence[Point]) -> list[Choice]:
    """Search from the highest speedup down: a choice that was good at a higher one starts the search at the next."""
    choices: list[Choice] = []
    for point in usual:
        baseline = search.measure(point.threads, HIGHEST_ERROR)
        choices.append(search.best(point.target, baseline, choices))
    return choices


def _points(
    method: Method, targets: Sequence[float], search: Search, choices: Sequence[Choice], evaluations: int, images: int
) -> list[Point]:
    points = []
    for target, choice in zip(targets, map(search.judged, choices), strict=True):
        below = sum(threads < FASTEST for threads in choice.threads.values())
        points.append(Point(method, target, choice.threads, below, choice, evaluations, images))
    return points


def _right(result: Result) -> Bools:
    assert result.outcome is not None
    return result.outcome.top1


def record(point: Point, result: Result, fp32: Bools, usual: Bools, collisions: float) -> CurveRecord:
    """The record of one point.

    Args:
        fp32: bool (images,), which images the float32 network got right.
        usual: bool (images,), which the highest-error order with recalibration got right at the same target.
        collisions: the network's, with four threads everywhere.
    """
    right = _right(result)
    return {
        "model": result.model,
        "data": result.data,
        "curve": f"{point.method} {'w/' if result.recal else 'w/o'}",
        "method": point.method,
        "recal": result.recal,
        "reorder": result.provenance["config"]["smt"]["reorder"],
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
        "above_highest_error": percent(right) - percent(usual),
        "above_highest_error_stderr": paired_error(right, usual),
        "origin": point.choice.origin if point.choice else None,
        "search_loss": point.choice.loss if point.choice else None,
        "search_loss_stderr": point.choice.stderr if point.choice else None,
        "heldout_loss": point.choice.heldout_loss if point.choice else None,
        "heldout_loss_stderr": point.choice.heldout_stderr if point.choice else None,
        "evaluations": point.evaluations,
        "evaluated_images": point.evaluated_images,
        "seed": result.seed,
        "weights_hash": result.provenance["weights_hash"],
        "content": result.provenance["content"],
        "collisions_4t": collisions,
    }
