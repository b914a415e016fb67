import numpy as np
import pytest

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.recovered import Recovered, recovered_share, share_interval
from bnrecal.evaluation.significance import Differences, mean_squares

IMAGES = 1000


def right(count: int, first: int = 0) -> Bools:
    """So many of 1,000 images right, from image `first` on."""
    images = np.arange(IMAGES)
    return (images >= first) & (images < first + count)


def reported(plain: int, control: int, without: int, with_recal: int, first: int = 0) -> Recovered | None:
    """Of one seed with so many images right; those with recalibration from image `first` on."""
    return recovered_share([right(plain)], [right(control)], [right(without)], [right(with_recal, first)])


def on_the_edge(share: float, part: Differences, whole: Differences) -> float:
    """The squared t of part - share * whole over images."""
    values = (part - share * whole)[0]
    return float(values.mean() ** 2 / (values.var(ddof=1) / values.size))


def test_a_share_is_net_of_the_control_and_its_interval_ends_where_students_test_turns() -> None:
    found = reported(900, 910, 600, 800)
    assert found is not None
    assert found.share == pytest.approx((200 - 10) / 300)
    part = np.zeros((1, IMAGES))
    whole = np.zeros((1, IMAGES))
    part[0, 600:800] += 1
    part[0, 900:910] -= 1
    whole[0, 600:900] = 1
    assert found.low < found.share < found.high
    for end in (found.low, found.high):
        assert on_the_edge(end, part, whole) == pytest.approx(1.962341**2, rel=1e-5)  # t of 999 degrees of freedom


def test_a_share_that_was_lost_on_top_is_negative() -> None:
    found = reported(900, 900, 600, 450)
    assert found is not None
    assert found.share == pytest.approx(-0.5)
    assert found.low < -0.5 < found.high < 0


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        ((900, 900, 896, 900), "a loss of four images"),
        ((900, 901, 895, 901), "five lost, six gained, but one of them by the control: all of 5, and p = 0.06"),
        ((600, 600, 900, 800), "better than A8W8"),
        ((900, 900, 600, 603), "a gain of three images"),
        ((900, 1000, 600, 700), "the control gains as much"),
        ((900, 840, 600, 601), "the control loses, and the gain itself is one image"),
    ],
)
def test_nothing_is_reported_beside_a_difference_that_is_not_significant(levels: tuple[int, ...], why: str) -> None:
    assert reported(*levels) is None, why


def test_a_share_is_reported_where_it_is_known_to_within_half_of_itself() -> None:
    # the net gain is the same; the more images change besides, the less of it is sure
    assert reported(900, 900, 600, 680, 40) is not None
    assert reported(900, 900, 600, 680, 300) is None
    part = right(680, 300).astype(float) - right(600)
    whole = right(900).astype(float) - right(600)
    low, high = share_interval(part[None], whole[None]) or (0.0, 0.0)
    assert 0 < low < 80 / 300 < high  # significant all the same
    assert high - low > 80 / 300


def test_a_part_of_nothing_has_no_interval() -> None:
    part = np.ones((1, 50))
    assert share_interval(part, np.resize([1.0, -1.0], (1, 50))) is None
    assert share_interval(np.ones((1, 1)), np.ones((1, 1))) is None


def test_seeds_that_differ_widen_the_interval_to_where_the_test_over_seeds_turns() -> None:
    generator = np.random.default_rng(0)
    chance = np.array([[0.4], [0.6], [0.5]])
    easy, hard = generator.random((2, 2000))  # the same images for all seeds
    whole = (easy < 0.4 + 0.1 * generator.random((3, 2000))).astype(float)
    part = whole * (hard < chance + 0.1 * generator.random((3, 2000)))
    ends = share_interval(part, whole)
    assert ends is not None
    for end in ends:
        parts = mean_squares(part - end * whole)
        assert parts.rest < min(parts.seed, 0.5 * parts.image)  # so that seeds and images both count
        quantiles = 4.302653**2 * parts.seed + 1.961151**2 * (parts.image - parts.rest)
        assert (part - end * whole).mean() ** 2 * 6000 == pytest.approx(quantiles, rel=1e-4)
    alone = share_interval(part.reshape(1, -1), whole.reshape(1, -1))
    assert alone is not None
    assert ends[0] < alone[0] < alone[1] < ends[1]
