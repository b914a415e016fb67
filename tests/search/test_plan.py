import itertools
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.known_search import known_search, small_experiment
from helpers.small import TINY
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import milp

import bnrecal.experiment.setup
import bnrecal.search.knapsack
import bnrecal.search.sensitivity
from bnrecal.commands.cli.compose import compose_config, read_config
from bnrecal.commands.cli.schemas import PlanConfig
from bnrecal.commands.plan import make_plan, use_of_plan
from bnrecal.config import parse
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.errors import BnrecalError
from bnrecal.experiment.identity import content_key
from bnrecal.experiment.networks import planned_layers
from bnrecal.experiment.run import result_provenance, run_variants
from bnrecal.experiment.setup import Experiment, load, prepare
from bnrecal.experiment.variant import Variant
from bnrecal.quantization.layer_plan import load_plan, plan_speedup
from bnrecal.search.config import SearchConfig, check_search
from bnrecal.search.error_order import _apart, slowed, slowest_prefix, spread
from bnrecal.search.knapsack import Item, mixed_speedup, reachable, solve
from bnrecal.search.local_search import HIGHEST_ERROR, Choice
from bnrecal.search.plans import baseline_choice, pareto_front, save_plan
from bnrecal.search.sensitivity import Probe, fixed_macs, items_of, sensitivities, threadable, variant_of

SEARCH = ["search.sensitivity_images=32", "search.images=32", "search.rounds=1", "search.tries=2"]
SEARCH += ["search.heldout_images=32"]


def made(out: Path, speedup: float) -> Path:
    return make_plan(read_config(PlanConfig, [*TINY, *SEARCH, f"speedup={speedup}", f"out={out}"]), [])


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return small_experiment()


losses = st.tuples(st.integers(0, 20), st.integers(0, 20))
layers = st.lists(st.tuples(st.integers(1, 50), losses), min_size=1, max_size=5)


@settings(max_examples=40)
@given(drawn=layers, fixed=st.integers(0, 30), place=st.floats(0, 1))
@example(drawn=[(1, (1, 1))], fixed=2, place=2.0**-21)  # one layer is too slow by less than the solver tolerates
def test_the_integer_program_finds_what_trying_everything_finds(
    drawn: list[tuple[int, tuple[int, int]]], fixed: int, place: float
) -> None:
    items = [Item(str(n), macs, {1: 0.0, 2: two / 1.0, 4: four / 1.0}) for n, (macs, (two, four)) in enumerate(drawn)]
    lowest, highest = reachable(items, fixed)
    target = lowest + place * (highest - lowest)
    names = [item.name for item in items]
    every = itertools.product((1, 2, 4), repeat=len(items))
    choices = [dict(zip(names, threads, strict=True)) for threads in every]
    fast = [c for c in choices if mixed_speedup(items, c, fixed) >= target * (1 - 1e-9)]

    def cost(choice: Mapping[str, int]) -> float:
        return sum(item.losses[choice[item.name]] for item in items)

    found = solve(items, target, fixed)
    assert mixed_speedup(items, found, fixed) >= target * (1 - 2e-9)
    assert cost(found) == pytest.approx(min(map(cost, fast)))


def test_a_choice_that_the_solver_lets_pass_by_its_tolerance_alone_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = [Item(name, 8, {1: 0.0, 2: 1.0, 4: 3.0}) for name in "ab"]
    asked: list[int] = []

    def tolerant(*args: Any, constraints: list[Any], **kwargs: Any) -> Any:
        asked.append(len(constraints))
        first = len(asked) == 1
        return milp(*args, constraints=constraints[:1] if first else constraints, **kwargs)

    monkeypatch.setattr(bnrecal.search.knapsack, "milp", tolerant)
    assert solve(items, 2.0) == {"a": 2, "b": 2}
    assert asked == [2, 3]


def test_a_speedup_out_of_reach_names_what_is_in_reach() -> None:
    items = [Item("a", 100, {1: 0.0, 2: 1.0, 4: 2.0}), Item("b", 300, {1: 0.0, 2: 1.0})]
    assert reachable(items) == pytest.approx((1.0, 400 / (25 + 150)))
    for bad in (2.3, 0.0, -1.0, float("nan")):
        with pytest.raises(BnrecalError, match=r"cannot be reached: .* 1\.000 to 2\.286"):
            solve(items, bad)


def test_what_cannot_be_chosen_counts_for_what_is_in_reach() -> None:
    items = [Item("a", 100, {2: 1.0, 4: 2.0})]
    assert reachable(items, 100) == pytest.approx((200 / 150, 200 / 125))
    assert solve(items, 1.5, 100) == {"a": 4}
    with pytest.raises(BnrecalError, match=r"cannot be reached: .* 1\.333 to 1\.600"):
        solve(items, 1.7, 100)


def test_losses_far_below_one_are_reported_apart() -> None:
    items = [Item(name, 100, {1: 0.0, 2: loss, 4: 4 * loss}) for name, loss in (("a", 3e-9), ("b", 1e-9))]
    assert solve(items, 4 / 3) == {"a": 1, "b": 2}


def test_mixed_speedup_by_hand_and_as_an_experiment_counts_it(experiment: Experiment) -> None:
    free = threadable(experiment)
    assert [layer.name for layer in free] == ["conv2", "dilated"]
    # conv2: 16x16 outputs, 16 filters of 8x3x3; depthwise: 16 of 1x3x3; dilated: 16 of 16x3x3
    pixels = 16 * 16
    conv2, depthwise, dilated = pixels * 16 * 72, pixels * 16 * 9, pixels * 16 * 144
    assert [layer.macs for layer in free] == [conv2, dilated]
    assert fixed_macs(experiment) == depthwise
    threads = {"conv2": 2, "dilated": 4}
    by_hand = (conv2 + depthwise + dilated) / (conv2 / 2 + depthwise + dilated / 4)
    assert mixed_speedup(free, threads, depthwise) == pytest.approx(by_hand)
    plans, _ = planned_layers(experiment, variant_of(experiment, threads, recal=False))
    assert plan_speedup(plans) == pytest.approx(by_hand)


def test_equal_threads_everywhere_are_the_whole_network_setting(experiment: Experiment) -> None:
    everywhere = [variant_of(experiment, {"conv2": t, "dilated": t}, recal=True) for t in (2, 4)]
    assert everywhere[1] == Variant(4, True)
    results = run_variants(experiment, [*everywhere, Variant(2, True)])
    by_layer, whole = results[0], results[2]
    assert by_layer.outcome is not None
    assert whole.outcome is not None
    assert np.array_equal(by_layer.outcome.top1, whole.outcome.top1)
    assert (by_layer.speedup, by_layer.cycles) == (whole.speedup, whole.cycles)


def test_one_thread_costs_nothing_and_the_trained_statistics_are_not_used(experiment: Experiment) -> None:
    probe = Probe(experiment, 40)
    assert len(probe.selection.indices) == 32  # whole batches of 16
    assert probe.selection.split == "train"
    assert np.abs(probe.losses({})).max() < 1e-12
    four = probe.losses({"conv2": 4, "dilated": 4})
    assert four.shape == (32,)
    assert four.mean() > 0
    shifted = experiment.model.network.get_submodule("bn2").get_buffer("running_mean")
    before = shifted.clone()
    try:
        shifted.add_(100.0)  # what recalibration would put right
        assert np.array_equal(Probe(experiment, 40).losses({"conv2": 4, "dilated": 4}), four)
    finally:
        shifted.copy_(before)


def test_sensitivities_are_of_each_layer_alone(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(experiment, 32)
    bars: list[tuple[str, str]] = []

    def bar(jobs: Sequence[tuple[object, int]], what: str, unit: str) -> Sequence[tuple[object, int]]:
        bars.append((what, unit))
        return jobs

    monkeypatch.setattr(bnrecal.search.sensitivity, "progress", bar)
    measured = sensitivities(probe)
    assert bars == [("sensitivities", "layer")]
    each = [probe.losses({layer: threads}) for layer in ("conv2", "dilated") for threads in (2, 4)]
    assert measured["loss"].tolist() == [losses.mean() for losses in each]
    assert measured["stderr"].tolist() == pytest.approx([losses.std(ddof=1) / math.sqrt(32) for losses in each])
    assert measured["macs"].tolist() == [layer.macs for layer in threadable(experiment) for _ in (2, 4)]
    assert list(zip(measured["name"], measured["threads"], strict=True)) == list(
        itertools.product(("conv2", "dilated"), (2, 4))
    )
    alone = measured[(measured["name"] == "conv2") & (measured["threads"] == 4)]["loss"].item()
    assert alone == pytest.approx(probe.losses({"conv2": 4}).mean())
    items = items_of(threadable(experiment), measured)
    assert items[0].losses == {1: 0.0, 2: pytest.approx(items[0].losses[2]), 4: pytest.approx(alone)}


def test_the_images_that_a_search_is_judged_on_are_others_than_it_chose_on(experiment: Experiment) -> None:
    chosen_on = Probe(experiment, 32)
    judged_on = Probe(experiment, 48, after=32)
    assert len(judged_on.selection.indices) == 48
    assert not set(chosen_on.selection.indices) & set(judged_on.selection.indices)
    assert set(Probe(experiment, 64).selection.indices) > set(chosen_on.selection.indices)


def test_what_runs_one_thread_anyway_counts_where_layers_are_slowed() -> None:
    items = [Item("a", 100, {1: 0.0, 2: 1.0, 4: 2.0}), Item("b", 300, {1: 0.0, 2: 1.0, 4: 2.0})]
    exactly = 400 / (300 / 4 + 100 / 2)
    assert slowest_prefix(items, ["a", "b"], 2, exactly) == {"a": 2, "b": 4}
    assert slowest_prefix(items, ["a", "b"], 2, exactly, 1) == {"a": 4, "b": 4}


@given(values=st.lists(st.integers(0, 60), min_size=2, max_size=9, unique=True), points=st.integers(2, 6))
def test_operating_points_lie_as_far_apart_as_can_be(values: list[int], points: int) -> None:
    speedups = sorted(map(float, values), reverse=True)
    last = len(speedups) - 1
    found = spread(speedups, points)
    if points > last:
        assert found == list(range(last + 1))
        return

    def least_gap(places: Sequence[int]) -> float:
        return min(speedups[one] - speedups[other] for one, other in itertools.pairwise(places))

    assert (len(found), found[0], found[-1]) == (points, 0, last)
    between = itertools.combinations(range(1, last), points - 2)
    assert least_gap(found) == max(least_gap((0, *places, last)) for places in between)


@pytest.mark.parametrize("key", ["sensitivity_images", "images", "heldout_images", "tries"])
def test_settings_of_the_search_are_named_when_they_are_wrong(key: str) -> None:
    config = SearchConfig()
    setattr(config, key, 0)
    with pytest.raises(BnrecalError, match=rf"^search\.{key}=0: must be at least"):
        check_search(config)


def test_operating_points_are_prefixes_spread_over_the_speedups(experiment: Experiment) -> None:
    assert slowed(["b", "a"], 1, 2) == {"b": 2, "a": 4}
    assert spread([4.0, 3.9, 3.8, 3.0, 2.2, 2.1, 2.0], 3) == [0, 3, 6]
    assert spread([4.0, 3.0, 2.0], 9) == [0, 1, 2]
    assert spread([4.0, 3.8, 2.2, 2.19, 2.1, 1.5, 1.0], 5) == [0, 1, 2, 5, 6]
    assert _apart([3.0, 2.0, 1.0], 1.0) == [0, 1, 2]  # a gap of just that much is enough, to either side
    assert spread([4.0, 4.0, 4.0, 2.0], 3) == [0, 1, 3]  # layers without work do not change the speedup
    free = threadable(experiment)
    fixed = fixed_macs(experiment)
    order = ["dilated", "conv2"]
    slow = slowest_prefix(free, order, 2, mixed_speedup(free, slowed(order, 1, 2), fixed), fixed)
    assert slow == {"dilated": 2, "conv2": 4}
    assert slowest_prefix(free, order, 2, 3.9, fixed) is None


def test_a_network_without_a_choice_of_threads_is_named(experiment: Experiment) -> None:
    with pytest.raises(BnrecalError, match=r"^custom has no convolution that can run several threads$"):
        threadable(replace(experiment, convs=experiment.convs[:1]))


COST = {("conv2", 2): 1.0, ("conv2", 4): 8.0, ("dilated", 2): 1.0, ("dilated", 4): 2.0}


def test_a_plan_file_holds_the_choice_and_all_that_it_was_chosen_by(experiment: Experiment, tmp_path: Path) -> None:
    config = SearchConfig(sensitivity_images=16, images=32, heldout_images=16)
    search = known_search(experiment, COST, COST)
    search.config = config
    search.probe = Probe(experiment, 32)
    search.heldout = Probe(experiment, 16, after=32)
    found = Choice({"conv2": 2, "dilated": 4}, 2.5, 0.25, 0.125, "swaps", 0.5, 0.0625)
    usual = Choice({"conv2": 4, "dilated": 2}, 2.75, 0.75, 0.375, HIGHEST_ERROR)
    front = pd.DataFrame({"speedup": [1.5, 2.5], "plan": [False, True]})
    path = save_plan(search, 2.25, found, usual, front, 7, tmp_path)
    key = content_key({**experiment.identity, "search": asdict(config)})
    stem = f"custom-glyphs-2.25x-A-seed0-{key}"
    assert {made.name for made in tmp_path.iterdir()} == {f"{stem}.json", f"{stem}-front.csv"}
    assert (tmp_path / f"{stem}-front.csv").read_text() == "speedup,plan\n1.5,False\n2.5,True\n"
    variant = Variant(4, True, (("conv2", 2), ("dilated", 4)))
    expected = {
        "layers": {"conv2": 2, "dilated": 4},
        "speedup": 2.5,
        "loss": 0.25,
        "stderr": 0.125,
        "origin": "swaps",
        "heldout_loss": 0.5,
        "heldout_stderr": 0.0625,
        "target": 2.25,
        "baseline": asdict(usual),
        "evaluations": 7,
        "search": asdict(config),
        "search_images": search.probe.selection.provenance(experiment.source),
        "heldout_images": search.heldout.selection.provenance(experiment.source),
        "provenance": result_provenance(experiment, variant),
    }
    assert json.loads(path.read_text()) == json.loads(json.dumps(expected))
    assert path.read_text().startswith('{\n  "layers": {\n    "conv2": 2')
    again = save_plan(search, 2.25, found, None, front, 7, tmp_path)
    assert again == path
    assert json.loads(path.read_text())["baseline"] is None


def test_the_front_holds_the_programs_choices_beside_the_highest_error_order(experiment: Experiment) -> None:
    search = known_search(experiment, COST, {key: 2 * cost for key, cost in COST.items()})
    order = ["dilated", "conv2"]
    found = Choice({"conv2": 2, "dilated": 2}, search.speedup({"conv2": 2, "dilated": 2}), 5.0, 0.5, "swaps")
    front = pareto_front(search, order, 2, found)
    expected = [front_row(found, None, plan=True)]
    lowest, highest = reachable(search.items, search.fixed)
    assert lowest < 1.2
    for speedup in np.linspace(1.2, highest, 9):
        choice = search.program(float(speedup))
        row = front_row(choice, baseline_choice(search, order, 2, float(speedup)), plan=False)
        if row not in expected:  # several speedups, one choice
            expected.append(row)
    assert 2 < len(expected) < 10
    expected.sort(key=lambda row: float(row["speedup"]))
    pd.testing.assert_frame_equal(front, pd.DataFrame(expected), check_dtype=False)
    assert search.program(1.9).loss == pytest.approx(2.0)  # measured, where twice as much is predicted
    assert list(pareto_front(search, order, 3, found)["highest_error_loss"].dropna()) == []


def front_row(choice: Choice, usual: Choice | None, *, plan: bool) -> dict[str, float | bool]:
    return {
        "speedup": choice.speedup,
        "loss": choice.loss,
        "stderr": choice.stderr,
        "predicted": sum(2 * COST[name, t] for name, t in choice.threads.items() if t > 1),
        "highest_error_speedup": usual.speedup if usual else math.nan,
        "highest_error_loss": usual.loss if usual else math.nan,
        "plan": plan,
    }


def test_the_usual_order_is_no_choice_where_its_threads_are_not_allowed(experiment: Experiment) -> None:
    search = known_search(experiment, COST, COST)
    order = ["dilated", "conv2"]
    usual = baseline_choice(search, order, 2, 2.25)
    assert usual is not None
    assert (usual.threads, usual.origin) == ({"dilated": 2, "conv2": 4}, HIGHEST_ERROR)
    assert usual.loss == pytest.approx(9.0)
    slower = baseline_choice(search, order, 1, 1.3)
    assert slower is not None
    assert slower.threads == {"dilated": 1, "conv2": 4}
    for threads in ([1, 2], [1, 4]):
        search.config = replace(search.config, threads=threads)
        assert baseline_choice(search, order, 2, 2.5) is None


def test_the_command_saves_a_plan_that_an_experiment_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def planned() -> Path:
        return made(tmp_path, 2.2)

    path = planned()
    plan = json.loads(path.read_text())
    assert plan["speedup"] >= 2.2 == plan["target"]
    assert plan["search_images"]["split"] == plan["heldout_images"]["split"] == "train"
    assert plan["heldout_loss"] != plan["loss"]
    assert plan["evaluations"] >= 5  # four sensitivities and the integer program's choice
    assert load_plan(path) == plan["layers"]
    experiment = prepare(load(parse(compose_config("config", [*TINY, f"smt.plan={path}", "recal=true"]))))
    result = run_variants(experiment, [Variant.of(experiment.config)])[0]
    assert result.speedup == pytest.approx(plan["speedup"])
    front = pd.read_csv(next(tmp_path.glob("*-front.csv")))
    assert front["speedup"].is_monotonic_increasing
    printed = capsys.readouterr().out
    assert "<- the plan" in printed
    assert f"chosen out of {plan['evaluations']} measured choices" in printed
    assert "millinats on held-out images" in printed
    assert json.loads(planned().read_text())["layers"] == plan["layers"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["slow=3"], "slow=3: choose 1 or 2"),
        (["search.threads=[1,3]"], r"search.threads=\[1, 3\]: choose some of 1, 2, 4"),
        (["search.images=1"], "search.images=1: must be at least 2"),
        (["smt.layers={conv2: 2}"], "leave them out"),
    ],
)
def test_values_out_of_range_are_reported(overrides: list[str], message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        read_config(PlanConfig, [*TINY, *overrides])


def test_an_unreachable_speedup_is_reported_before_anything_is_searched(tmp_path: Path) -> None:
    with pytest.raises(BnrecalError, match=r"speedup=4\.5 cannot be reached: .* 1\.000 to 3\."):
        made(tmp_path, 4.5)


def test_the_command_that_uses_a_plan_asks_for_the_experiment_it_was_made_for() -> None:
    asked = ["model=custom", "model.factory=my_nets:small", "smt.policy=my_policy:POLICY", "model.kwargs={classes: 96}"]
    config = read_config(PlanConfig, asked)
    command = use_of_plan(config, [*asked, "speedup=2.0", "search.threads=[1,4]", "out=here", "slow=1"], Path("p.json"))
    assert shlex.split(command) == ["bnrecal", *asked, "smt.plan=p.json", "recal=true"]
    plain = use_of_plan(read_config(PlanConfig, []), ["data.val_images=9"], Path("p.json"))
    assert plain == "bnrecal model=resnet18 data.val_images=9 smt.plan=p.json recal=true"
