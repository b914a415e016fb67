"""The search on a probe whose losses are written down."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.known_search import Known, known_search, small_experiment

from bnrecal.experiment.setup import Experiment
from bnrecal.search.local_search import HIGHEST_ERROR, Search
from bnrecal.search.plans import FRONT_POINTS, baseline_choice, pareto_front
from bnrecal.search.sensitivity import _divergence


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return small_experiment()


def test_swaps_mend_what_the_sensitivities_got_wrong(experiment: Experiment) -> None:
    cost = {("conv2", 2): 1.0, ("conv2", 4): 2.0, ("dilated", 2): 5.0, ("dilated", 4): 50.0}
    wrong = {("conv2", 2): 9.0, ("conv2", 4): 50.0, ("dilated", 2): 0.1, ("dilated", 4): 0.2}
    search = known_search(experiment, cost, wrong)
    target = search.speedup({"conv2": 4, "dilated": 2})
    assert search.program(target).threads == {"conv2": 2, "dilated": 4}
    found = search.best(target)
    assert found.threads == {"conv2": 4, "dilated": 2}
    assert found.origin == "swaps"
    assert found.speedup == pytest.approx(target)


def test_the_usual_choice_is_kept_unless_another_is_surely_better(experiment: Experiment) -> None:
    cost = {("conv2", 2): 1.0, ("conv2", 4): 1.0, ("dilated", 2): 1.0, ("dilated", 4): 1.0}
    search = known_search(experiment, cost, cost)
    baseline = search.measure({"conv2": 2, "dilated": 4}, HIGHEST_ERROR)
    assert search.best(2.0, baseline).origin == HIGHEST_ERROR  # a tie
    calls = search.probe.calls  # type: ignore[attr-defined]
    search.best(2.0, baseline)
    assert search.probe.calls == calls  # type: ignore[attr-defined]


def test_a_start_exactly_as_fast_as_asked_for_is_a_start(experiment: Experiment) -> None:
    cost = dict.fromkeys(itertools.product(("conv2", "dilated"), (2, 4)), 1.0)
    search = known_search(experiment, cost, cost)
    baseline = search.measure({"conv2": 2, "dilated": 4}, HIGHEST_ERROR)
    assert search.best(baseline.speedup, baseline) == baseline


def test_of_the_swaps_that_were_measured_the_best_is_taken(experiment: Experiment) -> None:
    cost = {("conv2", 2): 8.0, ("conv2", 4): 9.0, ("dilated", 2): 3.0, ("dilated", 4): 4.0}
    search = known_search(experiment, cost, dict.fromkeys(cost, 1.0))
    found = search._refine(search.measure({"conv2": 4, "dilated": 4}, "start"), 1.0)
    assert (found.threads, found.loss) == ({"conv2": 1, "dilated": 1}, 0.0)


def test_a_choice_is_judged_by_the_held_out_probe_alone(experiment: Experiment) -> None:
    cost = {("conv2", 2): 1.0, ("conv2", 4): 3.0, ("dilated", 2): 1.0, ("dilated", 4): 2.0}
    other = {key: 10 * value for key, value in cost.items()}
    search = known_search(experiment, cost, cost)
    search.heldout = Known(experiment, other)  # type: ignore[assignment]
    one, two = (search.measure(threads, "x") for threads in ({"conv2": 2, "dilated": 4}, {"conv2": 4, "dilated": 4}))
    assert one.loss == pytest.approx(3.0)
    assert one.heldout_loss is None
    assert search.judged(one).heldout_loss == pytest.approx(30.0)
    assert search.judged(one).loss == one.loss
    assert search.less_by(one, two) == pytest.approx((20.0, 20.0 * 0.1 / np.sqrt(3)))


def test_the_divergence_is_that_of_the_found_probabilities_from_the_wanted_ones() -> None:
    wanted = torch.tensor([[0.5, 0.25, 0.25]])
    found = torch.tensor([[0.25, 0.25, 0.5]])
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5)  # sum of wanted * log(wanted / found)
    assert float(_divergence(wanted.log(), found.log() + 3.0)) == pytest.approx(by_hand)
    skewed = torch.tensor([[0.9, 0.05, 0.05]])
    there = _divergence(wanted.log(), skewed.log())
    back = _divergence(skewed.log(), wanted.log())
    assert float(there) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.25 / 0.05))
    assert abs(float(there - back)) > 0.05


def test_what_was_tried_is_counted_once(experiment: Experiment) -> None:
    cost = dict.fromkeys(itertools.product(("conv2", "dilated"), (2, 4)), 1.0)
    search = known_search(experiment, cost, cost)
    assert (search.evaluations, search.evaluated_images) == (4, 4 * search.config.sensitivity_images)
    for _ in range(2):
        search.measure({"conv2": 2, "dilated": 4}, "x")
    assert search.evaluations == 5
    assert search.evaluated_images == 4 * search.config.sensitivity_images + search.config.images


def test_the_highest_error_order_is_a_choice_where_the_search_may_use_its_threads(experiment: Experiment) -> None:
    cost = {("conv2", 2): 1.0, ("conv2", 4): 3.0, ("dilated", 2): 1.0, ("dilated", 4): 2.0}
    search = known_search(experiment, cost, cost)
    order = ["dilated", "conv2"]
    threads = {"dilated": 2, "conv2": 4}
    assert baseline_choice(search, order, 2, search.speedup(threads)) == search.measure(threads, HIGHEST_ERROR)
    assert baseline_choice(search, order, 2, 99.0) is None
    search.config = replace(search.config, threads=[2, 4])
    assert baseline_choice(search, order, 1, 1.5) is None


def test_a_search_uses_the_thread_counts_that_it_may(experiment: Experiment) -> None:
    cost = {("conv2", 2): 1.0, ("conv2", 4): 3.0, ("dilated", 2): 1.0, ("dilated", 4): 2.0}
    known = known_search(experiment, cost, cost)
    few = Search(known.probe, known.measured, replace(known.config, threads=[4, 2]))
    assert [list(item.losses) for item in known.items] == [[1, 2, 4], [1, 2, 4]]
    assert [list(item.losses) for item in few.items] == [[2, 4], [2, 4]]


def test_the_front_marks_which_of_its_choices_is_the_plan(experiment: Experiment) -> None:
    cost = {("conv2", 2): 1.0, ("conv2", 4): 3.0, ("dilated", 2): 1.0, ("dilated", 4): 2.0}
    search = known_search(experiment, cost, cost)
    found = search.measure({"conv2": 2, "dilated": 4}, "swaps")
    front = pareto_front(search, ["dilated", "conv2"], 2, found)
    assert front["plan"].dtype == bool
    assert front.loc[front["plan"], ["speedup", "loss"]].to_numpy().tolist() == [[found.speedup, pytest.approx(3.0)]]
    others = front[~front["plan"]]
    assert 1 < len(others) <= FRONT_POINTS
    assert not others.duplicated().any()
    assert others["loss"].tolist() == pytest.approx(others["predicted"].tolist())
    assert (others["highest_error_speedup"] >= others["speedup"].clip(upper=others["highest_error_speedup"])).all()
