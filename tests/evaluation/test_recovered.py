import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import binom

from bnrecal.evaluation.accuracy import Bools
from bnrecal.evaluation.recovered import Recovered, recovered_share, share_interval, squared_width
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
    """The squared t of part - share * whole over images, two of which count as changed besides."""
    values = (part - share * whole)[0]
    return float(values.mean() ** 2 / ((values.var(ddof=1) + 2 / (values.size - 1)) / values.size))


def test_a_share_is_net_of_the_control_and_its_interval_ends_where_students_test_turns() -> None:
    found = reported(900, 910, 600, 800)
    assert found is not None
    assert found.share is not None
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
        ((900, 900, 600, 603), "a gain of three images"),
        ((900, 1000, 600, 700), "the control gains as much"),
        ((900, 840, 600, 601), "the control loses, and the gain itself is one image"),
    ],
)
def test_beside_a_gain_that_is_not_significant_the_interval_alone_is_reported(
    levels: tuple[int, ...], why: str
) -> None:
    found = reported(*levels)
    assert found is not None, why
    assert found.share is None, why
    plain, control, without, with_recal = levels
    assert found.low < (with_recal - without - control + plain) / (plain - without) < found.high, why


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        ((900, 900, 896, 900), "a loss of four images"),
        ((900, 901, 897, 901), "three lost, four gained, but one of them by the control"),
        ((600, 600, 900, 800), "better than A8W8"),
    ],
)
def test_of_a_loss_that_is_not_significant_nothing_is_reported(levels: tuple[int, ...], why: str) -> None:
    assert reported(*levels) is None, why


def test_a_share_is_reported_where_it_is_known_to_within_half_of_itself() -> None:
    # the net gain is the same; the more images change besides, the less of it is sure
    sure = reported(900, 900, 600, 680, 40)
    assert sure is not None
    assert sure.share == pytest.approx(80 / 300)
    unsure = reported(900, 900, 600, 680, 300)
    assert unsure is not None
    assert unsure.share is None
    assert 0 < unsure.low < 80 / 300 < unsure.high  # significant all the same
    assert unsure.high - unsure.low > 80 / 300


def test_a_share_is_written_with_its_interval_or_the_interval_alone() -> None:
    assert Recovered(0.4849, 0.3951, 0.5649).in_percent() == "48 % (40 to 56 %)"
    assert Recovered(None, -0.004, 1.2).in_percent() == "0 to 120 %"


@pytest.mark.parametrize(("lost", "share"), [(6, 0.9), (10, 0.8), (20, 0.9), (40, 0.9), (80, 0.95), (80, 0.5)])
def test_few_lost_images_that_come_back_alike_do_not_make_the_share_sure(lost: int, share: float) -> None:
    """Each of the lost images comes back with this chance, and nothing else changes."""
    holding = 0.0
    for back in range(lost + 1):
        found = reported(900, 900, 900 - lost, 900 - lost + back)
        assert found is not None
        holding += (found.low <= share <= found.high) * float(binom.pmf(back, lost, share))
    assert holding >= 0.93


def test_a_part_of_nothing_has_no_interval() -> None:
    part = np.ones((1, 50))
    assert share_interval(part, np.resize([1.0, -1.0], (1, 50))) is None
    assert share_interval(np.ones((1, 1)), np.ones((1, 1))) is None


T3 = 4.302653  # Student's t at 95 % for three seeds
T2 = 12.706205
Z = 1.961151  # for 2,000 images


def seeds_that_differ() -> tuple[Differences, Differences]:
    """A part of a whole, three seeds on the same 2,000 images; seeds and images both count."""
    generator = np.random.default_rng(0)
    chance = np.array([[0.4], [0.6], [0.5]])
    easy, hard = generator.random((2, 2000))
    whole = (easy < 0.4 + 0.1 * generator.random((3, 2000))).astype(float)
    return whole * (hard < chance + 0.1 * generator.random((3, 2000))), whole


def test_three_seeds_that_differ_widen_the_interval_by_a_mean_of_both_quantiles() -> None:
    part, whole = seeds_that_differ()
    ends = share_interval(part, whole)
    assert ends is not None
    for end in ends:
        parts = mean_squares(part - end * whole)
        assert parts.rest < min(parts.seed, 0.5 * parts.image)
        shared = parts.image + 3 * 2 / 1999 - parts.rest  # two images that changed for all three seeds
        variance = parts.seed + shared
        known = parts.rest * shared / (parts.rest + shared)
        quantile = ((T3 ** (1 / 3) * (parts.seed - known) + Z ** (1 / 3) * (shared + known)) / variance) ** 3
        assert (part - end * whole).mean() ** 2 * 6000 == pytest.approx(quantile**2 * variance, rel=1e-4)
    alone = share_interval(part.reshape(1, -1), whole.reshape(1, -1))
    assert alone is not None
    assert ends[0] < alone[0] < alone[1] < ends[1]


def test_two_seeds_that_differ_widen_the_interval_to_where_the_test_over_seeds_turns() -> None:
    part, whole = (table[[0, 2]] for table in seeds_that_differ())
    ends = share_interval(part, whole)
    assert ends is not None
    for end in ends:
        parts = mean_squares(part - end * whole)
        shared = parts.image + 2 * 2 / 1999 - parts.rest
        quantiles = T2**2 * parts.seed + Z**2 * shared
        assert (part - end * whole).mean() ** 2 * 4000 == pytest.approx(quantiles, rel=1e-4)


def test_seeds_that_agree_by_chance_do_not_make_the_interval_narrower_than_over_the_images() -> None:
    part, whole = seeds_that_differ()
    part = np.stack([part[0], np.roll(part[0], 1), np.roll(part[0], 2)])  # other images, the same mean
    whole = np.stack([whole[0], np.roll(whole[0], 1), np.roll(whole[0], 2)])
    ends = share_interval(part, whole)
    assert ends is not None
    for end in ends:
        parts = mean_squares(part - end * whole)
        assert parts.seed < 1e-9 < parts.rest < parts.image
        image = parts.image + 3 * 2 / 1999
        assert (part - end * whole).mean() ** 2 * 6000 == pytest.approx(Z**2 * image, rel=1e-4)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_width_lies_between_that_of_the_images_and_that_of_the_seeds(seeds: int) -> None:
    seed = np.geomspace(1e-3, 1e3, 50)
    width = squared_width(seed, 1.0, 0.25, seeds, 2000)
    assert np.all(np.diff(width) >= 0)
    assert width[0] == pytest.approx(Z**2, rel=1e-4)  # seeds that agree
    assert np.all(width >= Z**2 * (np.maximum(seed, 0.25) + 0.75) * 0.9999)
    t = float(stdtrit(seeds - 1, 0.975))
    assert np.all(width <= t**2 * (np.maximum(seed, 0.25) + 0.75))
    assert width[-1] == pytest.approx(t**2 * 1000, rel=0.01)  # images that hardly count
    assert squared_width(0, 0, 0, seeds, 2000) == 0  # all changed alike


def test_a_loss_that_differs_from_seed_to_seed_as_much_as_from_none_has_no_interval() -> None:
    part, whole = seeds_that_differ()
    whole = whole * np.array([[1.0], [0.02], [0.02]])
    assert share_interval(part, whole) is None
    assert share_interval(part[:1], whole[:1]) is not None


def test_images_that_vary_less_than_the_rest_do_not_narrow_the_interval() -> None:
    turns = np.arange(900) % 3
    lost = turns == np.arange(3)[:, None]  # every image is lost by one seed
    back = np.arange(900) // 3 < np.array([[100], [150], [200]])
    whole = lost.astype(float)
    part = (lost & back).astype(float)
    ends = share_interval(part, whole)
    assert ends is not None
    for end in ends:
        parts = mean_squares(part - end * whole)
        assert parts.image < parts.rest
        assert (part - end * whole).mean() ** 2 * 2700 == pytest.approx(4.302653**2 * parts.seed, rel=1e-4)
