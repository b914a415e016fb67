"""The search for threads per layer: integer program on measured sensitivities, then swaps on the real network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pandas as pd

from bnrecal.search.config import SearchConfig
from bnrecal.search.knapsack import mixed_speedup, solve
from bnrecal.search.sensitivity import Losses, Probe, fixed_macs, items_of, mean_and_error, threadable

SURE = 2.0  # paired standard errors by which a choice must beat the baseline to replace it
SLACK = 1 - 1e-9
SWAPPED = "swaps"
MSE_FIRST = "MSE first"
PROGRAM = "integer program"


@dataclass(frozen=True)
class Choice:
    """Threads of every layer that can run several.

    Attributes:
        origin: which step of the search it comes from.
        loss: mean divergence from A8W8 on the search's training images, in nats; `stderr` of that mean.
    """

    threads: dict[str, int]
    speedup: float
    loss: float
    stderr: float
    origin: str


class Search:
    """Finds choices for one model; what was measured once is not measured again."""

    def __init__(self, probe: Probe, measured: pd.DataFrame, config: SearchConfig) -> None:
        layers = threadable(probe.setup)
        self.probe = probe
        self.config = config
        self.fixed = fixed_macs(probe.setup)
        self.items = items_of(layers, measured, sorted(config.threads))
        self._losses: dict[tuple[int, ...], Losses] = {}

    def best(self, speedup: float, baseline: Choice | None = None, others: Sequence[Choice] = ()) -> Choice:
        """The choice of least measured loss that is at least this fast.

        Args:
            baseline: where it is fast enough, it is kept unless another choice is better by more than `SURE`
                paired standard errors.
            others: further starts for the search.

        Raises:
            BnrecalError: if the thread counts cannot be that fast.
        """
        given = [choice for choice in (baseline, *others) if choice and choice.speedup >= speedup * SLACK]
        found = self._refine(min([*given, self.program(speedup)], key=lambda choice: choice.loss), speedup)
        if baseline in given and baseline is not None and not self._better(found, baseline, SURE):
            return baseline
        return found

    def program(self, speedup: float) -> Choice:
        """The choice of least predicted loss that is at least this fast, measured."""
        return self.measure(solve(self.items, speedup, self.fixed), PROGRAM)

    def measure(self, threads: Mapping[str, int], origin: str) -> Choice:
        """A choice with its loss on the search's training images."""
        loss, stderr = mean_and_error(self._measured(threads))
        return Choice(dict(threads), self.speedup(threads), loss, stderr, origin)

    def speedup(self, threads: Mapping[str, int]) -> float:
        return mixed_speedup(self.items, threads, self.fixed)

    def predicted(self, threads: Mapping[str, int]) -> float:
        """The sum of the layers' own losses."""
        return sum(item.losses[threads[item.name]] for item in self.items)

    def _measured(self, threads: Mapping[str, int]) -> Losses:
        key = self._key(threads)
        if key not in self._losses:
            self._losses[key] = self.probe.losses(threads)
        return self._losses[key]

    def _better(self, one: Choice, other: Choice, errors: float) -> bool:
        difference, stderr = mean_and_error(self._measured(one.threads) - self._measured(other.threads))
        return difference < 0 and difference <= -errors * stderr

    def _refine(self, current: Choice, speedup: float) -> Choice:
        """Greedy: of the swaps that the sensitivities favour, measure some and take the best, while it is better."""
        for _ in range(self.config.rounds):
            unseen = (t for t in self._swaps(current.threads, speedup) if self._key(t) not in self._losses)
            tried = [self.measure(t, SWAPPED) for t in islice(unseen, self.config.tries)]
            if not tried:
                break
            best = min(tried, key=lambda choice: choice.loss)
            if not self._better(best, current, 1.0):
                break
            current = best
        return current

    def _key(self, threads: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(threads[item.name] for item in self.items)

    def _swaps(self, threads: Mapping[str, int], speedup: float) -> Iterator[dict[str, int]]:
        """Choices that differ in one layer, or slow one and hasten another; least predicted loss first."""
        moves = [{item.name: t} for item in self.items for t in item.losses if t != threads[item.name]]
        slower = [m for m in moves if all(t < threads[n] for n, t in m.items())]
        faster = [m for m in moves if all(t > threads[n] for n, t in m.items())]
        pairs = [s | f for s in slower for f in faster if s.keys() != f.keys()]
        changed = [{**threads, **move} for move in [*slower, *pairs]]
        fast = [t for t in changed if self.speedup(t) >= speedup * SLACK]
        yield from sorted(fast, key=self.predicted)
