"""Whether two networks that saw the same images differ by more than chance."""

from scipy.special import bdtr

from bnrecal.evaluation.accuracy import Bools


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
