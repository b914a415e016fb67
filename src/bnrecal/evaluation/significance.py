"""Tests of networks that saw the same images: do they differ by more than chance, over images and over seeds?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import bisect
from scipy.special import stdtrit
from scipy.stats import binom

from bnrecal.evaluation.accuracy import Bools

LEVEL = 0.05  # a difference is called significant below this p-value
LEAST_LOG_P = -690.0  # smaller p-values are 0: float64 ends near exp(-745)

Differences = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A mean difference of accuracies on the same images, in percentage points.

    Attributes:
        stderr: its standard error, in percentage points.
        p: two-sided p-value of there being none.
    """

    points: float
    stderr: float
    p: float

    @property
    def significant(self) -> bool:
        """Return whether p is below LEVEL."""
        return self.p < LEVEL


def mcnemar(before: Bools, after: Bools) -> float:
    """Two-sided exact McNemar test (McNemar, 1947): the p-value of gain and loss being equally likely.

    Args:
        before, after: bool (images,), whether each image was classified right, image by image the same.

    Returns:
        The probability, were the two equally good, of a split of the changed images at least this uneven; 1 if
        none changed.
    """
    return sign_flips(after.astype(np.float64) - before)


def sign_flips(differences: Differences) -> float:
    """Two-sided exact test of paired differences: the p-value of each being as likely with the other sign.

    Of differences -1, 0 and 1 it is McNemar's test.

    Args:
        differences: whole numbers (images,).

    Returns:
        The share of all 2^images choices of signs whose sum is at least as far from zero; 1 if all are zero.
    """
    counts = np.bincount(np.rint(np.abs(differences)).astype(np.int64))
    chances = np.ones(1)  # of the sums -most, -most + 2, ..., most of the sizes so far
    for size, count in enumerate(counts):
        if size > 0 and count > 0:
            own = np.zeros(size * count + 1)
            own[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
            chances = np.convolve(chances, own)
    most = len(chances) - 1
    sums = np.arange(-most, most + 1, 2)
    return min(1.0, float(chances[np.abs(sums) >= abs(np.rint(differences.sum()))].sum()))


def change(before: Sequence[Bools], after: Sequence[Bools]) -> Difference:
    """Return by how much the second network is better than the first, over one seed or several, tested by `over_seeds`.

    Args:
        before, after: for each seed bool (images,); the images are the same for all seeds.
    """
    return over_seeds(np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64))


def over_seeds(differences: Differences) -> Difference:
    """The mean difference, tested for seeds and images that are both drawn at random.

    All seeds are judged on the same images, so their differences are not independent: pooling them as if they
    were would make p-values too small, and a test over the seeds' means alone would know nothing of the images. The
    model with both, difference = mean + seed + image + rest, is that of readers who judge the same cases in medical
    imaging (Dorfman, Berbaum and Metz, Investigative Radiology 27, 1992, 723-731), with a seed for a reader:

        variance of the mean = A + B,  A = MS(seed) / (seeds * images)
                                       B = max(MS(image) - MS(rest), 0) / (seeds * images)

    A is known from seeds - 1 degrees of freedom only, B from images - 1. Their usual mixture (Satterthwaite) calls
    up to a tenth of no differences significant at 2 seeds, where it should be a twentieth; so the interval is put
    together from those of the parts (Zou and Donner, Statistics in Medicine 27, 2008, 1693-1702), which errs on the
    safe side: p is where  mean^2 = t(seeds - 1, p)^2 A + t(images - 1, p)^2 B.

    Where few images change, seeds agree by chance, and A or both parts come out as none at all. So p is never less than
    that of the images alone, the exact test `sign_flips` of each image's sum over the seeds, which knows nothing of
    seeds that differ. With one seed it is that test, and says nothing of other seeds.

    The standard error counts MS(seed) as no less than MS(rest), of which it is made where seeds do not differ. It is 0
    only where all images of all seeds changed alike.

    Args:
        differences: float64 (seeds, images), whole numbers: -1..1, or -2..2 for a difference of differences.
    """
    parts = mean_squares(differences)
    count = differences.size
    mean = float(differences.mean())
    p = sign_flips(differences.sum(axis=0))
    if len(differences) > 1:
        known = [(parts.seed / count, parts.seed_freedom), (parts.shared / count, parts.image_freedom)]
        p = max(p, _p_value(mean, known))
    return Difference(100 * mean, 100 * parts.standard_error, p)


@dataclass(frozen=True)
class MeanSquares:
    """The mean squares of a table (seeds, images) about its mean: between seeds, between images, and the rest.

    With one seed, `seed` and `rest` are 0.
    """

    seed: float
    image: float
    rest: float
    seed_freedom: int
    image_freedom: int

    @property
    def shared(self) -> float:
        """The part of `image` that all seeds have in common."""
        return max(self.image - self.rest, 0.0)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over seeds and images, as `over_seeds` explains it."""
        count = (self.seed_freedom + 1) * (self.image_freedom + 1)
        return float(np.sqrt((max(self.seed, self.rest) + self.shared) / count))


def mean_squares(differences: Differences) -> MeanSquares:
    """The analysis of variance of differences (seeds, images), one value a cell."""
    seeds, images = differences.shape
    mean = differences.mean()
    of_seed = differences.mean(axis=1, keepdims=True) - mean
    of_image = differences.mean(axis=0) - mean
    rest = np.square(differences - mean - of_seed - of_image).sum()
    # of one alone there is nothing to divide
    by_seed = max(seeds - 1, 1)
    by_image = max(images - 1, 1)
    return MeanSquares(
        float(images * np.square(of_seed).sum() / by_seed),
        float(seeds * np.square(of_image).sum() / by_image),
        float(rest / (by_seed * by_image)) if seeds > 1 else 0.0,
        seeds - 1,
        images - 1,
    )


def _p_value(mean: float, parts: Sequence[tuple[float, int]]) -> float:
    """The two-sided p-value of a mean whose variance is the sum of parts, each with its degrees of freedom."""
    known = [(np.sqrt(variance), freedom) for variance, freedom in parts if variance > 0 and freedom > 0]

    def beyond(log_p: float) -> float:
        return float(np.hypot.reduce([e * stdtrit(f, np.exp(log_p) / 2) for e, f in known]) - abs(mean))

    if mean == 0 or any(freedom == 0 for _, freedom in parts):
        return 1.0
    if not known or beyond(LEAST_LOG_P) < 0:
        return 0.0
    return float(np.exp(bisect(beyond, LEAST_LOG_P, 0.0)))
