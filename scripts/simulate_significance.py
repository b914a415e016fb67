"""Try the tests of `bnrecal.evaluation` on made-up networks whose true differences are known.

    python scripts/simulate_significance.py [TRIALS [SEEDS...]]

prints two Markdown tables, with SEEDS only of the cases of so many seeds. The first: of networks that are equally good,
how many `over_seeds` calls different at 5 %. The second: of networks that recover a known share of a loss, for how many
`recovered_share` reports an interval, how many of these hold the true share, for how many a share is reported as one
number, and how far those lie off in the mean. Its last case is a loss that is hardly ever significant: an interval is
reported only where chance made the loss larger, and fewer hold the true share.
"""

import sys
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.recovered import recovered_share
from bnrecal.evaluation.significance import Differences, over_seeds

TRIALS = 1000
IMAGES = 500
TOP1 = 0.86  # of A8W8 in the second table


@dataclass(frozen=True)
class Flips:
    """Changes that are none on average, by how many images a seed they touch.

    Attributes:
        own: images that change for one seed only. shared: images that change alike for all seeds.
        lean: how far the chance to gain, instead of to lose, strays from a half, seed by seed.
    """

    seeds: int
    own: float
    shared: float
    lean: float = 0.0


NONE = [Flips(seeds, own, 0) for seeds in (2, 3, 5) for own in (2, 4, 6, 10, 20)]
NONE += [Flips(seeds, own, shared) for seeds in (2, 3, 5) for own, shared in ((0, 6), (2, 2), (10, 1), (20, 5))]
NONE += [Flips(seeds, 60, 60, 0.1) for seeds in (2, 3, 5)]
NONE += [Flips(1, 0, shared) for shared in (4, 10, 60)]


@dataclass(frozen=True)
class Loss:
    """Networks that lose `loss` of the images and recover a `share` of that; `spread` between seeds."""

    seeds: int
    images: int
    loss: float
    share: float
    spread: float = 0.0


LOSSES = [Loss(1, 5000, loss, share) for loss in (0.01, 0.03, 0.1) for share in (0.0, 0.3, 0.5, 0.8)]
LOSSES += [Loss(1, 500, loss, share) for loss in (0.05, 0.2) for share in (0.0, 0.5, 0.8)]
LOSSES += [Loss(1, 2000, 0.01, share) for share in (0.0, 0.5)]  # a loss that is significant in half of the trials
LOSSES += [Loss(3, 2000, loss, share, 0.01) for loss in (0.04, 0.15) for share in (0.0, 0.5, 0.8)]
LOSSES += [Loss(3, 2000, 0.1, 0.5, spread) for spread in (0.0, 0.003, 0.03)]
LOSSES += [Loss(seeds, 2000, 0.1, share, 0.01) for seeds in (2, 5) for share in (0.0, 0.5)]
SELDOM = Loss(1, 5000, 0.0027, 0.0)  # a loss that is significant in one of eight trials

Case = TypeVar("Case", Flips, Loss)


def main() -> None:
    """Print both tables."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS
    chosen = set(map(int, sys.argv[2:]))  # numbers of seeds
    print(line("seeds", "own flips a seed", "shared flips", "lean", "called different"), line(*["---"] * 5), sep="\n")
    for flips in _of(chosen, NONE):
        share = called_different(flips, trials)
        print(line(flips.seeds, flips.own, flips.shared, flips.lean, f"{100 * share:.1f} %"), flush=True)
    header = ["seeds", "images", "loss", "share", "spread"]
    header += ["intervals reported", "that hold it", "shares reported", "mean error"]
    print("", line(*header), line(*["---"] * len(header)), sep="\n")
    for loss in _of(chosen, [*LOSSES, SELDOM]):
        reported = shares(loss, trials // 2)
        shown = [f"{100 * part:g} %" for part in (loss.loss, loss.share, loss.spread)]
        print(line(loss.seeds, loss.images, *shown, *described(reported)), flush=True)


def _of(seeds: set[int], cases: list[Case]) -> list[Case]:
    """The cases of one of these numbers of seeds; all where none is given."""
    return [case for case in cases if not seeds or case.seeds in seeds]


def line(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def called_different(flips: Flips, trials: int) -> float:
    """The share of trials in which `over_seeds` is significant; it should be 0.05 at most."""
    generator = np.random.default_rng(0)
    return sum(over_seeds(drawn(generator, flips)).significant for _ in range(trials)) / trials


def drawn(generator: np.random.Generator, flips: Flips) -> Differences:
    """Differences (seeds, IMAGES) that are none on average."""
    table = (flips.seeds, IMAGES)
    gains = 0.5 + flips.lean * generator.uniform(-1, 1, (flips.seeds, 1))
    own = (generator.random(table) < flips.own / IMAGES) * np.where(generator.random(table) < gains, 1.0, -1.0)
    shared = (generator.random(IMAGES) < flips.shared / IMAGES) * generator.choice([-1.0, 1.0], IMAGES)
    return np.where(shared != 0, shared, own)


@dataclass(frozen=True)
class Told:
    """What became of trials.

    Attributes:
        intervals: how many reported an interval, out of `trials`; `holding`: how many of these hold the true share.
        shares: how many reported a share as one number. error: mean of these minus the true one, NaN without any.
    """

    trials: int
    intervals: int
    holding: int
    shares: int
    error: float


def shares(loss: Loss, trials: int) -> Told:
    """Draw networks and look what is reported of them."""
    generator = np.random.default_rng(0)
    results = [recovered_share(*map(list, networks(generator, loss))) for _ in range(trials)]
    reported = [result for result in results if result is not None]
    holding = sum(one.low <= loss.share <= one.high for one in reported)
    errors = [one.share - loss.share for one in reported if one.share is not None]
    return Told(trials, len(reported), holding, len(errors), float(np.mean(errors)) if errors else np.nan)


def networks(generator: np.random.Generator, loss: Loss) -> list[Bools]:
    """Which images A8W8, the control, and NB-SMT without and with recalibration get right; each bool (seeds, images).

    An image is right where its margin, which all networks share, outweighs the network's own noise.
    """
    margin = generator.standard_normal(loss.images, dtype=np.float32)
    below = TOP1 - loss.loss
    made = []
    for top1, noise in ((TOP1, 0.0), (TOP1, 0.03), (below, 0.25), (below + loss.share * loss.loss, 0.15)):
        own = _normal(generator, 1, loss.images, noise) + _normal(generator, loss.seeds, loss.images, 0.1)
        own += _normal(generator, loss.seeds, 1, loss.spread)
        deviation = np.sqrt(1 + noise**2 + 0.1**2 + loss.spread**2)
        made.append(margin + own > -ndtri(top1) * deviation)
    return made


def _normal(generator: np.random.Generator, seeds: int, images: int, deviation: float) -> npt.NDArray[np.float32]:
    noise = generator.standard_normal((seeds, images), dtype=np.float32)
    noise *= deviation
    return noise


def described(reported: Told) -> list[str]:
    """The last four cells of a row."""
    held = f"{100 * reported.holding / reported.intervals:.1f} %" if reported.intervals else ""
    error = f"{100 * reported.error:+.0f} points" if reported.shares else ""
    return [
        f"{100 * reported.intervals / reported.trials:.1f} %",
        held,
        f"{100 * reported.shares / reported.trials:.1f} %",
        error,
    ]


if __name__ == "__main__":
    main()
