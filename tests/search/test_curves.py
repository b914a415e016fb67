import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.known_search import Known, known_search, small_experiment

import bnrecal.search.curves
import bnrecal.search.plans
from bnrecal.evaluation.accuracy import Bools
from bnrecal.experiment.results import Result
from bnrecal.experiment.run import run_variants
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.variant import Variant
from bnrecal.search.config import SearchConfig
from bnrecal.search.curves import Point, chosen_points, measure_curves, record, usual_points
from bnrecal.search.error_order import at_four_threads, paired_error
from bnrecal.search.local_search import HIGHEST_ERROR, Choice, Search
from bnrecal.search.plans import prepare_search
from bnrecal.search.random_order import fair_choices
from bnrecal.search.sensitivity import Probe

LAYERS = ("conv2", "dilated")
COST = {("conv2", 2): 1.0, ("conv2", 4): 8.0, ("dilated", 2): 1.0, ("dilated", 4): 2.0}


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return small_experiment()


@pytest.fixture(scope="module")
def results(experiment: Experiment) -> list[Result]:
    """Four threads without and with recalibration, and conv2 at one thread with it."""
    return run_variants(experiment, [Variant(4, False), Variant(4, True), Variant(4, True, (("conv2", 1),))])


def test_the_usual_points_slow_the_layers_of_highest_error_first(experiment: Experiment) -> None:
    points = usual_points(experiment, ["dilated", "conv2"], 9, 2)
    assert [point.threads for point in points] == [
        {"dilated": 4, "conv2": 4},
        {"dilated": 2, "conv2": 4},
        {"dilated": 2, "conv2": 2},
    ]
    assert [(point.method, point.slowed) for point in points] == [("highest_error", count) for count in (0, 1, 2)]
    assert all((point.choice, point.evaluations, point.evaluated_images) == (None, 0, 0) for point in points)
    conv2, depthwise, dilated = 72, 9, 144  # multiply-accumulates of an output value; all have as many
    total = conv2 + depthwise + dilated
    assert [point.target for point in points] == pytest.approx(
        [total / (conv2 / c + depthwise + dilated / d) for c, d in ((4, 4), (4, 2), (2, 2))]
    )
    assert [point.slowed for point in usual_points(experiment, ["dilated", "conv2"], 2, 1)] == [0, 2]


def test_the_search_and_random_orders_are_judged_at_the_usual_speedups(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = known_search(experiment, COST, COST)
    search.heldout = Known(experiment, {key: 3 * cost for key, cost in COST.items()})  # type: ignore[assignment]
    asked: list[object] = []

    def prepared(*given: object, resume: bool) -> Search:
        asked.extend([*given, resume])
        return search

    monkeypatch.setattr(bnrecal.search.curves, "prepare_search", prepared)
    config = SearchConfig(rounds=3)
    usual = usual_points(experiment, ["dilated", "conv2"], 9, 2)
    points = chosen_points(experiment, usual[::-1], config, tmp_path)
    assert asked == [experiment, config, tmp_path, True]
    targets = [point.target for point in usual]  # from the highest down
    assert [(point.method, point.target) for point in points] == [
        *(("plan", target) for target in targets),
        *(("random", target) for target in targets),
    ]
    planned, random = points[:3], points[3:]
    best = [min(fast_enough(search, target), key=cost_of) for target in targets]
    assert [cost_of(point.threads) for point in planned] == pytest.approx([cost_of(threads) for threads in best])
    for point in points:
        assert point.slowed == sum(threads < 4 for threads in point.threads.values())
        assert point.choice is not None
        assert point.choice.threads == point.threads
        assert point.choice.loss == pytest.approx(cost_of(point.threads))
        assert point.choice.heldout_loss == pytest.approx(3 * cost_of(point.threads))
    assert {point.evaluations for point in planned} == {search.evaluations}
    assert {point.evaluated_images for point in planned} == {search.evaluated_images}
    assert {point.choice.origin for point in random if point.choice} == {"random order"}
    assert len({(point.evaluations, point.evaluated_images) for point in random}) == 1
    assert random[0].evaluated_images == random[0].evaluations * search.config.images
    assert random[0].evaluations == 5 < fair_choices(search)  # all that there are
    assert [cost_of(point.threads) for point in random] == pytest.approx([cost_of(point.threads) for point in planned])


def test_each_search_starts_from_the_usual_choice_and_from_what_was_found_at_higher_speedups(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = known_search(experiment, COST, COST)
    search.heldout = search.probe
    monkeypatch.setattr(bnrecal.search.curves, "prepare_search", lambda *_, resume: search)  # noqa: ARG005
    started: list[tuple[Choice | None, int]] = []
    best_choice = search.best

    def noted(speedup: float, baseline: Choice | None, others: list[Choice]) -> Choice:
        started.append((baseline, len(others)))
        return best_choice(speedup, baseline, others)

    monkeypatch.setattr(search, "best", noted)
    usual = usual_points(experiment, ["dilated", "conv2"], 9, 2)
    chosen_points(experiment, usual, SearchConfig(), tmp_path)
    assert [(first.threads, first.origin, others) for first, others in started if first] == [
        (point.threads, HIGHEST_ERROR, count) for count, point in enumerate(usual)
    ]


def test_the_error_of_a_paired_difference_is_in_points() -> None:
    one = np.array([1, 1, 0, 0], bool)
    other = np.array([1, 0, 1, 0], bool)
    assert paired_error(one, other) == pytest.approx(100 * np.sqrt(1 / 2) / 2)


def fast_enough(search: Search, target: float) -> list[dict[str, int]]:
    every = [dict(zip(LAYERS, threads, strict=True)) for threads in itertools.product((1, 2, 4), repeat=2)]
    return [threads for threads in every if search.speedup(threads) >= target * (1 - 1e-9)]


def cost_of(threads: dict[str, int]) -> float:
    return sum(COST[name, t] for name, t in threads.items() if t > 1)


def right(result: Result) -> Bools:
    assert result.outcome is not None
    return result.outcome.top1


def error(one: Bools, other: Bools) -> Any:
    return pytest.approx(float(100 * (one.astype(float) - other).std() / np.sqrt(len(one))))


def as_measured(result: Result) -> dict[str, Any]:
    """The fields of a row that are the result's own."""
    names = ("model", "data", "recal", "speedup", "cycles", "images", "top1", "stderr", "fp32_top1", "a8w8_top1")
    taken = {name: getattr(result, name) for name in (*names, "drop", "gain", "gain_p", "seed")}
    source = result.provenance
    own = {"weights_hash": source["weights_hash"], "content": source["content"]}
    return {**taken, **own, "reorder": "none"}


def test_a_row_of_the_figure_reports_the_point_and_its_result(results: list[Result]) -> None:
    plain, four, slower = results
    choice = Choice({"conv2": 1, "dilated": 4}, 2.5, 0.25, 0.5, "swaps", 0.75, 1.5)
    fp32 = ~right(slower)  # as if float32 answered the opposite
    assert record(Point("plan", 2.25, choice.threads, 1, choice, 7, 700), slower, fp32, right(four), 0.25) == {
        **as_measured(slower),
        "curve": "plan w/",
        "method": "plan",
        "target": 2.25,
        "slowed": 1,
        "layers": "conv2:1 dilated:4",
        "drop_stderr": error(fp32, right(slower)),
        "above_highest_error": slower.top1 - four.top1,
        "above_highest_error_stderr": error(right(slower), right(four)),
        "origin": "swaps",
        "search_loss": 0.25,
        "search_loss_stderr": 0.5,
        "heldout_loss": 0.75,
        "heldout_loss_stderr": 1.5,
        "evaluations": 7,
        "evaluated_images": 700,
        "collisions_4t": 0.25,
    }
    row = dict(record(Point("highest_error", 3.0, {"conv2": 4, "dilated": 4}, 0), plain, fp32, right(plain), 0.25))
    assert row["curve"] == "highest_error w/o"
    assert row["above_highest_error"] == 0
    unknown = ("origin", "search_loss", "search_loss_stderr", "heldout_loss", "heldout_loss_stderr")
    assert {row[key] for key in unknown} == {None}


def test_all_curves_of_a_network_are_measured_together(experiment: Experiment, tmp_path: Path) -> None:
    config = SearchConfig(sensitivity_images=16, images=16, heldout_images=16, rounds=1, tries=1)
    rows = measure_curves(experiment, 9, 2, config, tmp_path)
    assert [row["curve"] for row in rows] == [
        *["highest_error w/o", "highest_error w/"] * 3,
        *["plan w/"] * 3,
        *["random w/"] * 3,
    ]
    usual = {row["target"]: row for row in rows if row["curve"] == "highest_error w/"}
    four = at_four_threads(experiment)
    assert [row["layers"].split()[0] for row in usual.values()] == [f"{four.order[0]}:{t}" for t in (4, 2, 2)]
    for row in rows:
        assert row["above_highest_error"] == pytest.approx(row["top1"] - usual[row["target"]]["top1"])
        assert row["collisions_4t"] == four.collisions
        assert row["speedup"] >= row["target"] * (1 - 1e-9)
    assert len(measure_curves(experiment, 2, 1, None, tmp_path)) == 4


def test_every_point_is_compared_with_the_highest_error_order_with_recalibration(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def turned(*given: Any) -> list[Result]:
        """Without recalibration the opposite is right."""
        return [result if result.recal else opposite(result) for result in run_variants(*given)]

    def opposite(result: Result) -> Result:
        assert result.outcome is not None
        return replace(result, outcome=replace(result.outcome, top1=~result.outcome.top1), top1=100 - result.top1)

    monkeypatch.setattr(bnrecal.search.curves, "run_variants", turned)
    rows = measure_curves(experiment, 2, 1, None, tmp_path)
    usual = {row["target"]: row["top1"] for row in rows if row["recal"]}
    for row in rows:
        assert row["above_highest_error"] == pytest.approx(row["top1"] - usual[row["target"]])
    assert all(row["above_highest_error"] != 0 for row in rows if not row["recal"])


def test_sensitivities_are_measured_once_for_each_number_of_images(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[int] = []

    def sensitivities(probe: Probe) -> pd.DataFrame:
        measured.append(len(probe.selection.indices))
        return pd.DataFrame([{"name": n, "threads": t, "loss": loss} for (n, t), loss in COST.items()])

    monkeypatch.setattr(bnrecal.search.plans, "sensitivities", sensitivities)
    few = SearchConfig(sensitivity_images=16, images=32, heldout_images=16)
    first, again = (prepare_search(experiment, few, tmp_path, resume=True) for _ in range(2))
    assert measured == [16]
    assert first.measured.equals(again.measured)
    (kept,) = tmp_path.glob("sensitivities-custom-glyphs-seed0-*-16.json")
    prepare_search(experiment, few, tmp_path, resume=False)
    assert measured == [16, 16]
    prepare_search(experiment, replace(few, sensitivity_images=32), tmp_path, resume=True)
    assert measured == [16, 16, 32]
    assert kept.exists()
    assert first.heldout is not None
    assert len(first.probe.selection.indices) == 32
    assert not set(first.probe.selection.indices) & set(first.heldout.selection.indices)
