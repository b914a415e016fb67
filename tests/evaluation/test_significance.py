from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, ttest_1samp
from scipy.stats import t as student

from bnrecal.evaluation.significance import change, mcnemar, over_seeds, sign_flips


def drawn(generator: np.random.Generator, seeds: int, images: int, seed_noise: float) -> npt.NDArray[np.float64]:
    """Changes of -1, 0 or 1 that are zero on average but follow their seed and their image."""
    lean = generator.normal(0, seed_noise, (seeds, 1)) + generator.normal(0, 0.3, (1, images))
    return np.clip(np.round(lean + generator.normal(0, 0.5, (seeds, images))), -1, 1)


def test_one_seed_is_mcnemars_test_with_the_standard_error_of_a_mean() -> None:
    generator = np.random.default_rng(1)
    before = generator.random(400) < 0.7
    after = generator.random(400) < 0.8
    difference = after.astype(float) - before
    found = change([before], [after])
    assert found.p == pytest.approx(2 * binom.cdf((difference < 0).sum(), np.abs(difference).sum(), 0.5))
    assert found.p == mcnemar(before, after)
    assert found.points == pytest.approx(100 * difference.mean())
    assert found.stderr == pytest.approx(100 * difference.std(ddof=1) / np.sqrt(400))


@given(st.lists(st.integers(-4, 4), max_size=8))
def test_flipped_signs_are_all_counted(differences: list[int]) -> None:
    every = [int(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    far = sum(abs(total) >= abs(sum(differences)) for total in every)
    assert sign_flips(np.array(differences, dtype=float)) == pytest.approx(far / len(every))


def test_thousands_of_flips_are_counted_as_their_normal_limit_says() -> None:
    differences = np.repeat([1.0, -1.0, 2.0, -2.0, 0.0], [3100, 3000, 1050, 1000, 9000])
    deviation = np.sqrt(np.square(differences).sum())
    assert sign_flips(differences) == pytest.approx(2 * norm.sf((differences.sum() - 0.5) / deviation), rel=0.01)


def test_seeds_that_agree_by_chance_do_not_make_a_few_images_certain() -> None:
    gains = np.zeros((2, 500))
    gains[0, [0, 1]] = gains[1, [2, 3]] = 1  # two images a seed, and others: both variance components are none
    assert over_seeds(gains).p == pytest.approx(2 / 2**4)
    both = np.zeros((2, 5000))
    both[0, :12] = both[1, 100:115] = 1
    both[0, 12:22] = both[1, 115:128] = -1
    found = over_seeds(both)  # 27 gained, 23 lost, two more than lost in each seed
    assert found.points == pytest.approx(100 * 4 / 10_000)
    assert found.p == pytest.approx(2 * binom.cdf(23, 50, 0.5))
    assert found.stderr == pytest.approx(100 * np.sqrt(50) / 10_000, rel=0.001)


def test_three_seeds_by_hand() -> None:
    differences = np.tile([[1.0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, -1]], 10)
    # means of the seeds 1/2, 1/4, 1/2; of the images 2/3, 1/3, 1, -1/3; of all 5/12
    among_seeds = 40 * (2 * (1 / 12) ** 2 + (1 / 6) ** 2) / 2
    among_images = 3 * 10 * ((3 / 12) ** 2 + (1 / 12) ** 2 + (7 / 12) ** 2 + (9 / 12) ** 2) / 39
    rest = (np.square(differences - 5 / 12).sum() - 2 * among_seeds - 39 * among_images) / 78
    assert rest < min(among_seeds, among_images)
    found = over_seeds(differences)
    assert found.points == pytest.approx(100 * 5 / 12)
    assert found.stderr == pytest.approx(100 * np.sqrt((among_seeds + among_images - rest) / 120))
    # p: where the parts' own quantiles add up to the mean
    quantiles = student.isf(found.p / 2, 2) ** 2 * among_seeds / 120 + student.isf(found.p / 2, 39) ** 2 * (
        (among_images - rest) / 120
    )
    assert quantiles == pytest.approx((5 / 12) ** 2)
    assert sign_flips(differences.sum(axis=0)) < found.p


def test_seeds_that_differ_less_than_chance_makes_them_do_not_narrow_the_standard_error() -> None:
    differences = np.array([[1.0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, -1]])
    among_seeds = 4 * (2 * (1 / 12) ** 2 + (1 / 6) ** 2) / 2
    among_images = 3 * ((3 / 12) ** 2 + (1 / 12) ** 2 + (7 / 12) ** 2 + (9 / 12) ** 2) / 3
    rest = (np.square(differences - 5 / 12).sum() - 2 * among_seeds - 3 * among_images) / 6
    assert among_seeds < rest < among_images
    assert over_seeds(differences).stderr == pytest.approx(100 * np.sqrt(among_images / 12))
    assert over_seeds(differences).p == pytest.approx(6 / 16)  # choices of signs of the images' sums 2, 1, 3 and 1


def test_seeds_that_change_nothing_count_as_one() -> None:
    difference = np.repeat([1.0, 0, -1], [60, 900, 40])
    alone = over_seeds(difference[None])
    repeated = over_seeds(np.tile(difference, (5, 1)))
    assert repeated.stderr == pytest.approx(alone.stderr)
    assert repeated.p == pytest.approx(alone.p)


def test_nothing_changed_is_no_difference() -> None:
    same = np.array([True, False, True])
    assert change([same, same], [same, same]).p == 1.0
    assert over_seeds(np.zeros((3, 5))).p == 1.0


@pytest.mark.parametrize(("seeds", "noise"), [(2, 0.05), (2, 0.3), (3, 0.0), (3, 0.3), (8, 0.1)])
def test_of_differences_that_are_none_at_most_about_one_in_twenty_is_called_significant(
    seeds: int, noise: float
) -> None:
    generator = np.random.default_rng(0)
    trials = 300
    significant = sum(over_seeds(drawn(generator, seeds, 200, noise)).significant for _ in range(trials))
    assert 0.005 < significant / trials < 0.085  # the standard error of this share is 0.013


def test_images_shared_by_the_seeds_are_not_counted_as_new_ones() -> None:
    generator = np.random.default_rng(0)
    pooled = crossed = 0
    for _ in range(300):
        differences = drawn(generator, 8, 200, 0.1)
        pooled += ttest_1samp(differences.ravel(), 0).pvalue < 0.05
        crossed += over_seeds(differences).significant
    assert pooled > 3 * crossed


def test_a_real_difference_is_found() -> None:
    generator = np.random.default_rng(0)
    assert over_seeds(drawn(generator, 3, 5000, 0.0) + (generator.random((3, 5000)) < 0.03)).significant
