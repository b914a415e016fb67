import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from bnrecal.evaluation.significance import change, mcnemar, over_seeds


def drawn(generator: np.random.Generator, seeds: int, images: int, seed_noise: float) -> npt.NDArray[np.float64]:
    """Changes of -1, 0 or 1 that are zero on average but follow their seed and their image."""
    lean = generator.normal(0, seed_noise, (seeds, 1)) + generator.normal(0, 0.3, (1, images))
    return np.clip(np.round(lean + generator.normal(0, 0.5, (seeds, images))), -1, 1)


def test_one_seed_is_students_test_over_the_images_and_mcnemar_for_changes() -> None:
    generator = np.random.default_rng(1)
    before, after = generator.random(400) < 0.7, generator.random(400) < 0.8
    difference = after.astype(float) - before
    found = over_seeds(difference[None])
    assert found.p == pytest.approx(ttest_1samp(difference, 0).pvalue)
    assert found.points == pytest.approx(100 * difference.mean())
    assert found.stderr == pytest.approx(100 * difference.std(ddof=1) / np.sqrt(400))
    assert change([before], [after]).p == mcnemar(before, after)


def test_three_seeds_by_hand() -> None:
    differences = np.array([[1.0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, -1]])
    # means of the seeds 1/2, 1/4, 1/2; of the images 2/3, 1/3, 1, -1/3; of all 5/12
    among_seeds = 4 * (2 * (1 / 12) ** 2 + (1 / 6) ** 2) / 2
    among_images = 3 * ((3 / 12) ** 2 + (1 / 12) ** 2 + (7 / 12) ** 2 + (9 / 12) ** 2) / 3
    rest = (np.square(differences - 5 / 12).sum() - 2 * among_seeds - 3 * among_images) / 6
    total = among_seeds + among_images - rest
    found = over_seeds(differences)
    assert found.points == pytest.approx(100 * 5 / 12)
    assert found.stderr == pytest.approx(100 * np.sqrt(total / 12))
    # p: where the parts' own quantiles add up to the mean
    quantiles = student.isf(found.p / 2, 2) ** 2 * among_seeds / 12 + student.isf(found.p / 2, 3) ** 2 * (
        (among_images - rest) / 12
    )
    assert quantiles == pytest.approx((5 / 12) ** 2)


def test_seeds_that_change_nothing_count_as_one() -> None:
    difference = np.repeat([1.0, 0, -1], [60, 900, 40])
    alone, repeated = over_seeds(difference[None]), over_seeds(np.tile(difference, (5, 1)))
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
