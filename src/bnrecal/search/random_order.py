"""Chance with the search's means: the same thread counts, and as many training images to choose on."""

import math
from collections.abc import Sequence

import numpy as np

from bnrecal.search.error_order import Threads
from bnrecal.search.local_search import SLACK, Choice, Search
from bnrecal.search.sensitivity import mean_and_error
from bnrecal.seeds import derive_seed

RANDOM = "random order"
IN_VAIN = 200  # draws in a row that give nothing new, after which no new one is expected


class RandomOrders:
    """Choices that slow layers in random orders as far as a speedup allows, measured as the search measures."""

    def __init__(self, search: Search) -> None:
        """Take the search's images, network, thread counts and measure."""
        self.search = search
        self.measured: dict[tuple[int, ...], Choice] = {}

    def measure(self, speedups: Sequence[float], choices: int) -> None:
        """Measure so many choices, all different, spread evenly over the speedups; fewer if there are no more.

        Args:
            speedups: that the most threads everywhere reach; each gets one choice at least.
            choices: what a high speedup, which few choices reach, has no use for is left to the lower ones.
        """
        falling = sorted(speedups, reverse=True)
        for place, speedup in enumerate(falling):
            left = choices - len(self.measured)
            self._measure(speedup, math.ceil(left / (len(falling) - place)))

    @property
    def evaluations(self) -> int:
        """The number of choices that were measured; all are different."""
        return len(self.measured)

    @property
    def evaluated_images(self) -> int:
        """Over how many images, all evaluations together."""
        return self.evaluations * self.search.config.images

    def best(self, speedup: float) -> Choice:
        """The choice of least loss that is at least this fast, of all that were measured."""
        fast = [choice for choice in self.measured.values() if choice.speedup >= speedup * SLACK]
        return min(fast, key=lambda choice: choice.loss)

    def _measure(self, speedup: float, count: int) -> None:
        """Measure `count` choices that are new, or as many as there are; one at least if none is fast enough yet."""
        generator = np.random.default_rng(derive_seed(self.search.probe.experiment.config.seed, RANDOM, speedup))
        some = any(choice.speedup >= speedup * SLACK for choice in self.measured.values())
        enough = len(self.measured) + max(count, 0 if some else 1)
        in_vain = 0
        while len(self.measured) < enough and in_vain < IN_VAIN:
            threads = drawn_threads(self.search, speedup, generator)
            key = tuple(threads.values())
            if key in self.measured:
                in_vain += 1
                continue
            in_vain = 0
            loss, stderr = mean_and_error(self.search.probe.losses(threads))
            self.measured[key] = Choice(threads, self.search.speedup(threads), loss, stderr, RANDOM)


def drawn_threads(search: Search, speedup: float, generator: np.random.Generator) -> Threads:
    """All layers run their most threads; then, in random order, each is slowed once if the speedup allows it.

    A layer and one of its lower thread counts are drawn together, so that no count is preferred.
    """
    threads = {item.name: max(item.losses) for item in search.items}
    fastest = dict(threads)
    slower = [(item.name, count) for item in search.items for count in item.losses if count < threads[item.name]]
    for place in generator.permutation(len(slower)):
        name, count = slower[place]
        slowed = {**threads, name: count}
        if threads[name] == fastest[name] and search.speedup(slowed) >= speedup * SLACK:
            threads = slowed
    return threads


def fair_choices(search: Search) -> int:
    """Return how many choices random orders may measure to see as many images as the search, to the nearest choice."""
    return max(1, round(search.evaluated_images / search.config.images))
