"""The search for threads per layer: integer program on measured sensitivities, then swaps on the real network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pandas as pd

from bnrecal.search.config import SearchConfig
from bnrecal.search.knapsack import mixed_speedup, solve
from bnrecal.search.sensitivity import Losses, Probe, fixed_macs, items_of, mean_and_error, threadable

SURE = 2.0  # paired standard errors by which a choice must beat the baseline to replace it
SLACK = 1 - 1e-9
SWAPPED = "swaps"
HIGHEST_ERROR = "highest-error order"
PROGRAM = "integer program"


@dataclass(frozen=True)
class Choice:
    """Threads of every layer that can run several.

    Attributes:
        origin: which step of the search it comes from.
        loss: mean divergence from A8W8 on the training images it was chosen on, in nats; `stderr` of that mean. The
            least of many such losses is lower than it would be on other images.
        heldout_loss: the same on training images that no choice was made on, with its standard error; None where
            that was not measured.
    """

    threads: dict[str, int]
    speedup: float
    loss: float
    stderr: float
    origin: str
    heldout_loss: float | None = None
    heldout_stderr: float | None = None


class Search:
    """Finds choices for one model; what was measured once is not measured again."""

    def __init__(
        self, probe: Probe, measured: pd.DataFrame, config: SearchConfig, heldout: Probe | None = None
    ) -> None:
        """Search by `probe`; `measured` are the sensitivities; `heldout` measures on other images than `probe`."""
        layers = threadable(probe.experiment)
        self.probe = probe
        self.heldout = heldout
        self.measured = measured
        self.config = config
        self.fixed = fixed_macs(probe.experiment)
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
        best = self._refine(min([*given, self.program(speedup)], key=lambda choice: choice.loss), speedup)
        if baseline in given and baseline is not None and not self._better(best, baseline, SURE):
            return baseline
        return best

    def program(self, speedup: float) -> Choice:
        """The choice of least predicted loss that is at least this fast, measured."""
        return self.measure(solve(self.items, speedup, self.fixed), PROGRAM)

    def measure(self, threads: Mapping[str, int], origin: str) -> Choice:
        """A choice with its loss on the search's training images."""
        loss, stderr = mean_and_error(self._measured(threads))
        return Choice(dict(threads), self.speedup(threads), loss, stderr, origin)

    def judged(self, choice: Choice) -> Choice:
        """The choice with its loss on the held-out images, which nothing was chosen on."""
        loss, stderr = mean_and_error(self._heldout(choice))
        return replace(choice, heldout_loss=loss, heldout_stderr=stderr)

    def less_by(self, one: Choice, other: Choice) -> tuple[float, float]:
        """By how much less the first loses than the second on the held-out images; with its paired standard error."""
        return mean_and_error(self._heldout(other) - self._heldout(one))

    @property
    def evaluations(self) -> int:
        """The number of choices measured so far: one a sensitivity, one a whole choice."""
        return len(self.measured) + len(self._losses)

    @property
    def evaluated_images(self) -> int:
        """Over how many images, all evaluations together."""
        return len(self.measured) * self.config.sensitivity_images + len(self._losses) * self.config.images

    def _heldout(self, choice: Choice) -> Losses:
        assert self.heldout is not None
        return self.heldout.losses(choice.threads)

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
        """Choices that differ in one layer, or slow one and speed up another; least predicted loss first."""
        slower = [{item.name: t} for item in self.items for t in item.losses if t < threads[item.name]]
        faster = [{item.name: t} for item in self.items for t in item.losses if t > threads[item.name]]
        pairs = [s | f for s in slower for f in faster if s.keys() != f.keys()]
        changed = [{**threads, **move} for move in [*slower, *pairs]]
        fast = [t for t in changed if self.speedup(t) >= speedup * SLACK]
        yield from sorted(fast, key=self.predicted)
