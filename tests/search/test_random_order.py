"""Random orders, which the search is compared with, have its means: images, thread counts, choices."""

import itertools

import numpy as np
import pytest
from helpers.known_search import known_search, small_experiment

from bnrecal.experiment.setup import Experiment
from bnrecal.search.local_search import Search
from bnrecal.search.random_order import RandomOrders, drawn_threads, fair_choices

LAYERS = ("conv2", "dilated")
COST = {("conv2", 2): 1.0, ("conv2", 4): 8.0, ("dilated", 2): 1.0, ("dilated", 4): 2.0}


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return small_experiment()


@pytest.fixture
def search(experiment: Experiment) -> Search:
    return known_search(experiment, COST, COST)


def drawn(search: Search, speedup: float) -> set[tuple[int, ...]]:
    generator = np.random.default_rng(0)
    choices = [drawn_threads(search, speedup, generator) for _ in range(60)]
    return {(threads["conv2"], threads["dilated"]) for threads in choices}


def speed(search: Search, conv2: int, dilated: int) -> float:
    return search.speedup({"conv2": conv2, "dilated": dilated})


def test_an_order_slows_layers_to_any_count_as_far_as_the_speedup_allows(search: Search) -> None:
    assert drawn(search, 1.0) == set(itertools.product((1, 2), repeat=2))  # every layer is slowed, once
    # in the time that dilated takes more at two threads than at four, conv2 can run at two, but not at one
    assert drawn(search, speed(search, 4, 2)) == {(2, 4), (4, 2)}
    assert drawn(search, speed(search, 1, 4)) == {(1, 4), (2, 2)}
    assert drawn(search, speed(search, 4, 4)) == {(4, 4)}


def test_an_order_uses_the_thread_counts_that_the_search_may_use(search: Search) -> None:
    for item in search.items:
        item.losses.pop(1)  # type: ignore[attr-defined]
    assert drawn(search, 1.0) == {(2, 2)}


def test_choices_that_coincide_are_drawn_again_until_there_are_as_many_as_asked(search: Search) -> None:
    random = RandomOrders(search)
    random.measure([1.0], 4)
    assert random.measured.keys() == set(itertools.product((1, 2), repeat=2))
    assert (random.evaluations, search.probe.calls) == (4, 4)  # type: ignore[attr-defined]
    assert random.evaluated_images == 4 * search.config.images
    assert search.evaluations == 4  # the search's own count, of its sensitivities, is left alone


def test_the_same_seed_draws_the_same_orders(experiment: Experiment) -> None:
    drawn = []
    for _ in range(8):
        random = RandomOrders(known_search(experiment, COST, COST))
        random.measure([1.0], 1)
        drawn.append(set(random.measured))
    assert all(one == drawn[0] for one in drawn)  # of four choices


def test_what_a_high_speedup_has_no_use_for_goes_to_the_lower_ones(search: Search) -> None:
    random = RandomOrders(search)
    random.measure([1.0, speed(search, 4, 4)], 4)  # the most threads everywhere are one choice
    assert len(random.measured) == 4
    assert random.measured.keys() > {(4, 4)}
    random.measure([1.0], 99)
    assert len(random.measured) == 5  # there are no more


def test_every_speedup_gets_a_choice_and_the_best_that_is_fast_enough_is_kept(search: Search) -> None:
    random = RandomOrders(search)
    four = speed(search, 4, 4)
    some = speed(search, 4, 2)
    random.measure([four, some, 1.0], 1)
    assert random.best(four).threads == {"conv2": 4, "dilated": 4}
    assert random.best(four).loss == pytest.approx(10.0)
    assert random.best(some) == random.best(four)  # what is as fast as that is fast enough
    random.measure([some], 99)
    assert random.best(four).threads == {"conv2": 4, "dilated": 4}
    assert random.best(some).threads == {"conv2": 2, "dilated": 4}
    assert random.best(some).loss == pytest.approx(3.0)
    assert random.best(some).origin == "random order"
    assert random.best(some).speedup == pytest.approx(speed(search, 2, 4))


def test_random_orders_see_as_many_images_as_the_search(search: Search) -> None:
    assert search.evaluated_images == 4 * 512
    assert fair_choices(search) == 1
    for threads in itertools.product((1, 2, 4), repeat=2):
        search.measure(dict(zip(LAYERS, threads, strict=True)), "x")
    assert fair_choices(search) == 1 + 9
    search.config.images = 100
    assert fair_choices(search) == round((4 * 512 + 9 * 100) / 100)
