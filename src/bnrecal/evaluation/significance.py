"""Tests of networks that saw the same images: do they differ by more than chance, over images and over seeds?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import bisect
from scipy.special import bdtr
from scipy.stats import t as student

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
    gained = int((after & ~before).sum())
    lost = int((before & ~after).sum())
    # the binomial with p = 1/2 is symmetric: both tails together are twice the smaller one
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def change(before: Sequence[Bools], after: Sequence[Bools]) -> Difference:
    """Return by how much the second network is better than the first, over one seed or several.

    With one seed the p-value is that of `mcnemar`, which is exact; with several it is that of `over_seeds`.

    Args:
        before, after: for each seed bool (images,); the images are the same for all seeds.
    """
    found = over_seeds(np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64))
    return found if len(before) > 1 else Difference(found.points, found.stderr, mcnemar(before[0], after[0]))


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

    With one seed it is Student's t-test over the images, with `standard_error.of_mean(ddof=1)`, and says nothing of
    other seeds.

    Args:
        differences: float64 (seeds, images), each in -1..1, or -2..2 for a difference of differences.
    """
    seeds, images = differences.shape
    mean = float(differences.mean())
    of_image = differences.mean(axis=0) - mean
    among_images = float(seeds * np.square(of_image).sum() / max(images - 1, 1))
    if seeds == 1:
        return _judged(mean, [(among_images / images, images - 1)])
    of_seed = differences.mean(axis=1, keepdims=True) - mean
    among_seeds = float(images * np.square(of_seed).sum() / (seeds - 1))
    residual = float(np.square(differences - mean - of_seed - of_image).sum() / ((seeds - 1) * max(images - 1, 1)))
    of_images = max(among_images - residual, 0.0)
    count = seeds * images
    return _judged(mean, [(among_seeds / count, seeds - 1), (of_images / count, images - 1)])


def _judged(mean: float, parts: Sequence[tuple[float, int]]) -> Difference:
    """The two-sided test of a mean whose variance is the sum of parts, each with its degrees of freedom."""
    error = float(np.sqrt(sum(variance for variance, _ in parts)))
    known = [(np.sqrt(variance), freedom) for variance, freedom in parts if variance > 0 and freedom > 0]

    def beyond(log_p: float) -> float:
        return float(np.hypot.reduce([e * student.isf(np.exp(log_p) / 2, f) for e, f in known]) - abs(mean))

    if mean == 0 or any(freedom == 0 for _, freedom in parts):
        p = 1.0
    elif not known or beyond(LEAST_LOG_P) < 0:
        p = 0.0
    else:
        p = float(np.exp(bisect(beyond, LEAST_LOG_P, 0.0)))
    return Difference(100 * mean, 100 * error, p)
