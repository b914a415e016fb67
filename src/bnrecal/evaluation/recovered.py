"""The share of the loss to A8W8 that recalibration takes back, with its confidence interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.significance import LEVEL, Differences, change, mean_squares, over_seeds

KNOWN_TO = 0.5  # a share is reported where it is known to within this part of itself

Parabola = npt.NDArray[np.float64]  # a, b, c of a * share^2 + b * share + c


@dataclass(frozen=True)
class Recovered:
    """A share of a loss, 1 for all of it, negative where more was lost, and its 95 % confidence interval."""

    share: float
    low: float
    high: float

    def in_percent(self) -> str:
        """Return the share with its interval, as in "48 % (40 to 56 %)"."""
        return f"{100 * self.share:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"


def recovered_share(
    plain: Sequence[Bools], control: Sequence[Bools], without: Sequence[Bools], with_recal: Sequence[Bools]
) -> Recovered | None:
    """The gain by recalibration net of the control's, as a share of the loss to A8W8 without recalibration.

    The network without recalibration is in both. Where it does badly by chance, the loss is large and much of it seems
    to come back; so a share reported wherever the loss is significant is too large. It is reported only where the gain
    and the net gain are significant and the interval reaches, in the mean of its two sides, no farther than half of the
    share (`KNOWN_TO`), which takes a significant loss too. Then chance hardly chooses which shares are reported, and of
    networks that recover nothing next to none is reported (scripts/simulate_significance.py).

    Args:
        plain, control: A8W8 without and with recalibration, for each seed bool (images,), which images were right; the
            images are the same for all seeds.
        without, with_recal: the same under NB-SMT.

    Returns:
        The share with the interval of `share_interval`; None where it is not known well enough.
    """
    loss = _differences(without, plain)
    net = _differences(without, with_recal) - _differences(plain, control)
    interval = share_interval(net, loss)
    if interval is None or loss.mean() < 0:
        return None
    share = float(net.mean() / loss.mean())
    known = interval[1] - interval[0] <= 2 * KNOWN_TO * abs(share)
    gained = change(without, with_recal).significant and over_seeds(net).significant
    return Recovered(share, *interval) if known and gained else None


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
    image = _quantile(images) ** 2 * parabola(lambda differences: mean_squares(differences).image)
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
