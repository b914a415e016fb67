"""The share of the loss to A8W8 that recalibration takes back, with its confidence interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import stdtrit

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.significance import LEVEL, Differences, change, mean_squares, over_seeds

KNOWN_TO = 0.5  # a share is reported where it is known to within this part of itself
MORE_CHANGED = 2  # images that count as changed, besides those that did
POWER = 1 / 3  # of the quantiles whose mean sets the width over three seeds and more
TWO_SEEDS_POWER = 2

MeanSquare = float | npt.NDArray[np.float64]
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

    It holds the shares for which part - share * whole has a mean that zero is not too far from (Fieller, Journal of the
    Royal Statistical Society B 16, 1954, 175-185): over the images, and with several seeds within `squared_width`. All
    are drawn on the same images, so what the two means have in common counts.

    Args:
        part, whole: float64 (seeds, images).

    Returns:
        Its two ends; None where it has no end, because mean(whole) may be zero.
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
    image = parabola(lambda differences: mean_squares(differences).image + more)
    over_images = mean - _quantile(images) ** 2 * image
    if over_images[0] <= 0:
        return None
    low, high = _roots(over_images)
    if seeds == 1:
        return low, high
    seed = parabola(lambda differences: mean_squares(differences).seed)
    rest = parabola(lambda differences: mean_squares(differences).rest)

    def beyond(share: float) -> float:
        """Return by how much the squared mean of part - share * whole lies outside; negative inside."""
        by_seed, by_image, left = (float(np.polyval(one, share)) for one in (seed, image, rest))
        return float(np.polyval(mean, share) - squared_width(by_seed, by_image, left, seeds, images))

    if mean[0] <= squared_width(seed[0], image[0], rest[0], seeds, images):  # the largest shares belong to it
        return None
    return _crossing(beyond, low, low - high), _crossing(beyond, high, high - low)


def squared_width(
    seed: MeanSquare, image: MeanSquare, rest: MeanSquare, seeds: int, images: int
) -> npt.NDArray[np.float64]:
    """The square of the half width of a 95 % confidence interval over two seeds or more, times seeds * images.

    The variance of the mean is max(A, R) + B: A from MS(seed) and B as `significance.over_seeds` says, R from MS(rest),
    of which A is made where seeds do not differ. A is known from seeds - 1 degrees of freedom, B and R from the images.
    With two seeds the squared half width is that of Zou and Donner, which `over_seeds` tests by:

        max(t^2 A, z^2 R) + z^2 B,  t = t(seeds - 1), z = t(images - 1)

    It never errs on the narrow side, but on the wide one. From three seeds on, a part K = R B / (R + B) of A counts as
    known from the images, and a mean of both quantiles takes the place of t, in the manner of Cochran and Cox
    (Experimental Designs, 1950), but of their cube roots:

        half width = sqrt(max(A, R) + B) quantile
        quantile = ((max(t^m (A - K), z^m (max(A, R) - K)) + z^m (B + K)) / (max(A, R) + B))^(1 / m),  m = 1/3

    That holds the mean 93.4 to 97.2 times in 100, however much seeds differ (scripts/bound_coverage.py). No rule does
    much better that is never narrower than over the images alone, as these are; with two seeds none comes near.

    Args:
        seed, image, rest: mean squares of one shape.
    """
    power = TWO_SEEDS_POWER if seeds == 2 else POWER
    t = _quantile(seeds) ** power
    z = _quantile(images) ** power
    shared = np.maximum(image - rest, 0.0)
    variance = np.maximum(seed, rest) + shared
    some = np.maximum(rest + shared, np.finfo(np.float64).tiny)
    known = 0.0 if seeds == 2 else rest * (shared / some)
    weighted = np.maximum(t * (seed - known), z * (np.maximum(seed, rest) - known)) + z * (shared + known)
    quantile = np.divide(weighted, variance, out=np.zeros_like(variance), where=variance > 0)
    return np.asarray(variance * quantile ** (2 / power))


def _crossing(beyond: Callable[[float], float], inside: float, step: float) -> float:
    """The first place from `inside` on, in the direction of `step`, where `beyond` rises above zero."""
    if beyond(inside) >= 0:
        return inside
    while beyond(inside + step) <= 0:
        step *= 2
    return float(brentq(beyond, inside, inside + step))


def _roots(parabola: Parabola) -> tuple[float, float]:
    """Where a parabola that opens upwards and dips below zero crosses it."""
    a, b, c = (float(value) for value in parabola)
    root = float(np.sqrt(b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def _quantile(drawn: int) -> float:
    """Student's t that a mean over so many exceeds, in size, at LEVEL."""
    return float(stdtrit(drawn - 1, 1 - LEVEL / 2))


def _differences(before: Sequence[Bools], after: Sequence[Bools]) -> Differences:
    return np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)
