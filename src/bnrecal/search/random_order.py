"""What chance finds: layers slowed in random orders, the best of as many as the search has measured."""

import math

import numpy as np

from bnrecal.search.error_order import slowest_prefix
from bnrecal.search.knapsack import mixed_speedup
from bnrecal.search.local_search import Choice, Search
from bnrecal.search.sensitivity import mean_and_error, threadable
from bnrecal.seeds import derive_seed

RANDOM = "random order"


class RandomOrders:
    """Choices that slow as many layers of a random order as a speedup allows, measured as the search measures."""

    def __init__(self, search: Search, slow: int) -> None:
        """Take the search's images, network and measure; `slow` are the threads of the slowed layers."""
        self.search = search
        self.slow = slow
        self.layers = threadable(search.probe.setup)
        self.evaluations = 0

    @property
    def evaluated_images(self) -> int:
        """Over how many images, all evaluations together."""
        return self.evaluations * self.search.config.images

    def best(self, speedup: float, tries: int) -> Choice:
        """The choice of least measured loss among `tries` random orders, drawn from (seed, speedup).

        Args:
            speedup: that four threads everywhere reach.
        """
        setup, fixed = self.search.probe.setup, self.search.fixed
        generator = np.random.default_rng(derive_seed(setup.config.seed, RANDOM, speedup))
        names = [layer.name for layer in self.layers]
        found: dict[tuple[int, ...], Choice] = {}
        for _ in range(tries):
            order = [names[place] for place in generator.permutation(len(names))]
            threads = slowest_prefix(self.layers, order, self.slow, speedup, fixed)
            assert threads is not None, f"four threads everywhere do not reach a speedup of {speedup}"
            key = tuple(threads[name] for name in names)
            if key not in found:
                self.evaluations += 1
                loss, stderr = mean_and_error(self.search.probe.losses(threads))
                found[key] = Choice(threads, mixed_speedup(self.layers, threads, fixed), loss, stderr, RANDOM)
        return min(found.values(), key=lambda choice: choice.loss)


def fair_tries(search: Search, points: int) -> int:
    """How many random orders a point may try so that all points see at least as many images as the search did."""
    return max(1, math.ceil(search.evaluated_images / (points * search.config.images)))
