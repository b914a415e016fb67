"""Tests and intervals keep what they promise: scripts/bound_coverage.py, a few cells of simulate_significance.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def simulate() -> ModuleType:
    return loaded("simulate_significance")


@pytest.mark.parametrize(
    ("seeds", "own", "least", "most"),
    [
        (2, 0.3, 0.949, 1.0),
        (2, 1.0, 0.949, 1.0),
        (3, 0.01, 0.94, 0.97),
        (3, 0.3, 0.93, 0.97),
        (3, 0.6, 0.93, 0.97),
        (3, 1.0, 0.93, 0.973),
        (5, 0.3, 0.94, 0.97),
        (5, 1.0, 0.94, 0.973),
        (20, 0.5, 0.945, 0.96),
    ],
)
def test_intervals_hold_the_mean_about_95_times_in_100_however_much_seeds_differ(
    seeds: int, own: float, least: float, most: float
) -> None:
    held = loaded("bound_coverage").coverage(seeds, own)
    assert least < held.min() < held.max() < most


@pytest.mark.parametrize(("seeds", "own", "shared"), [(2, 2, 0), (2, 6, 0), (2, 10, 1), (3, 4, 0), (5, 2, 2)])
def test_a_few_flips_are_seldom_called_a_difference(simulate: ModuleType, seeds: int, own: int, shared: int) -> None:
    assert simulate.called_different(simulate.Flips(seeds, own, shared), 200) <= 0.055


def test_the_table_of_flips_is_none_on_average_and_shared_flips_are_shared(simulate: ModuleType) -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([simulate.drawn(generator, simulate.Flips(2, 6, 20)) for _ in range(200)])
    assert abs(drawn.sum(axis=(1, 2)).mean()) < 3
    assert np.abs(drawn).sum(axis=(1, 2)).mean() == pytest.approx(2 * 26, rel=0.05)
    assert (drawn[:, 0] * drawn[:, 1]).sum(axis=1).mean() == pytest.approx(20, rel=0.1)


def test_networks_that_recover_nothing_get_no_share(simulate: ModuleType) -> None:
    reported = simulate.shares(simulate.Loss(1, 2000, 0.06, 0.0), 100)  # a loss of some ten standard errors
    assert reported.shares == 0
    assert reported.intervals > 90
    assert reported.holding >= 0.88 * reported.intervals  # 95 % less three standard errors


@pytest.mark.parametrize("loss", [(1, 1000, 0.2, 0.5), (2, 500, 0.3, 0.8, 0.005)])
def test_the_true_share_lies_in_the_interval_that_is_reported(simulate: ModuleType, loss: tuple[float, ...]) -> None:
    reported = simulate.shares(simulate.Loss(*loss), 100)
    assert reported.shares > 30
    assert reported.holding >= 0.88 * reported.intervals
    assert abs(reported.error) < 0.05
