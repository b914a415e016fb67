"""The share of the loss to A8W8 that recalibration takes back, with its confidence interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.significance import LEVEL, Differences, change, mean_squares, over_seeds

KNOWN_TO = 0.5  # a share is reported where it is known to within this part of itself
MORE_CHANGED = 2  # images that count as changed, besides those that did

Parabola = npt.NDArray[np.float64]  # a, b, c of a * share^2 + b * share + c


@dataclass(frozen=True)
class Recovered:
    """A share of a loss, 1 for all of it, negative where more was lost.

    Attributes:
        share: None where it is not known well enough to be reported as one number.
        low, high: ends of the 95 % confidence interval.
    """

    share: float | None
    low: float
    high: float

    def in_percent(self) -> str:
        """Return the share with its interval, as in "48 % (40 to 56 %)", or the interval alone: "9 to 56 %"."""
        ends = f"{round(100 * self.low)} to {round(100 * self.high)} %"
        return ends if self.share is None else f"{round(100 * self.share)} % ({ends})"


def recovered_share(
    plain: Sequence[Bools], control: Sequence[Bools], without: Sequence[Bools], with_recal: Sequence[Bools]
) -> Recovered | None:
    """The gain by recalibration net of the control's, as a share of the loss to A8W8 without recalibration.

    The interval is reported of every significant loss, whatever it holds: an interval that is reported for some shares
    and kept back for others no longer holds the true one 95 times in 100.

    The share as one number is another matter. The network without recalibration is in gain and loss both; where it does
    badly by chance, the loss is large and much of it seems to come back. So the share is reported only where the gain
    and the net gain are significant and the interval reaches, in the mean of its two sides, no farther than half of the
    share (`KNOWN_TO`). Then chance hardly chooses which shares are reported, and of networks that recover nothing next
    to none is reported (scripts/simulate_significance.py).

    Args:
        plain, control: A8W8 without and with recalibration, for each seed bool (images,), which images were right; the
            images are the same for all seeds.
        without, with_recal: the same under NB-SMT.

    Returns:
        The share with the interval of `share_interval`; None where the loss is not significant.
    """
    loss = _differences(without, plain)
    net = _differences(without, with_recal) - _differences(plain, control)
    interval = share_interval(net, loss)
    if interval is None or loss.mean() < 0 or not over_seeds(loss).significant:
        return None
    share = float(net.mean() / loss.mean())
    known = interval[1] - interval[0] <= 2 * KNOWN_TO * abs(share)
    gained = change(without, with_recal).significant and over_seeds(net).significant
    return Recovered(share if known and gained else None, *interval)


def share_interval(part: Differences, whole: Differences) -> tuple[float, float] | None:
    """The 95 % confidence interval of mean(part) / mean(whole).

    It holds the shares for which the mean of part - share * whole is not significantly different from zero (Fieller,
    Journal of the Royal Statistical Society B 16, 1954, 175-185): over the images, and with several seeds also by the
    test of `significance.over_seeds`. All are drawn on the same images, so what the two means have in common counts.

    Args:
        part, whole: float64 (seeds, images).

    Returns:
        Its two ends; None where it has no end, because mean(whole) is not significantly different from zero.
    """
    seeds, images = whole.shape
    if images == 1:
        return None

    def parabola(measure: Callable[[Differences], float]) -> Parabola:
        """Measure part - share * whole, where that is a parabola over the share."""
        zero = measure(part)
        one = measure(part - whole)
        minus = measure(part + whole)
        return np.array([(one + minus) / 2 - zero, (one - minus) / 2, zero])

    mean = parabola(lambda differences: float(differences.size * differences.mean() ** 2))
    more = MORE_CHANGED * seeds / (images - 1)
    image = _quantile(images) ** 2 * parabola(lambda differences: mean_squares(differences).image + more)
    inside = [mean - image]  # a share belongs to the interval where one of these is not above zero
    if seeds > 1:
        seed = _quantile(seeds) ** 2 * parabola(lambda differences: mean_squares(differences).seed)
        rest = _quantile(images) ** 2 * parabola(lambda differences: mean_squares(differences).rest)
        inside += [mean - seed, mean - seed - image + rest]
    if any(a <= 0 for a, _, _ in inside):
        return None
    ends = [end for one in inside for end in _roots(one)]
    return min(ends), max(ends)


def _roots(parabola: Parabola) -> list[float]:
    """Where a parabola that opens upwards crosses zero; none where it stays above."""
    a, b, c = (float(value) for value in parabola)
    square = b * b - 4 * a * c
    return [] if square < 0 else [(-b + sign * float(np.sqrt(square))) / (2 * a) for sign in (-1, 1)]


def _quantile(drawn: int) -> float:
    """Student's t that a mean over so many exceeds, in size, at LEVEL."""
    return float(stdtrit(drawn - 1, 1 - LEVEL / 2))


def _differences(before: Sequence[Bools], after: Sequence[Bools]) -> Differences:
    return np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)
