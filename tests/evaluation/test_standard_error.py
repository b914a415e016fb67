import numpy as np
import pytest

from bnrecal.evaluation.significance import over_seeds
from bnrecal.evaluation.standard_error import of_mean, of_share


def test_the_error_of_a_share_is_binomial() -> None:
    assert of_share(0.8, 100) == pytest.approx(0.04)
    assert of_share(1.0, 100) == 0


def test_the_error_of_a_mean_estimates_the_variance_with_or_without_bias() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])
    assert of_mean(values, ddof=0) == pytest.approx(np.sqrt(10 / 4 / 4))
    assert of_mean(values, ddof=1) == pytest.approx(np.sqrt(10 / 3 / 4))


def test_all_definitions_agree_where_they_mean_the_same() -> None:
    right = np.arange(50) < 20
    assert of_mean(right.astype(np.float64), ddof=0) == pytest.approx(of_share(0.4, 50))
    differences = np.where(np.arange(50) < 20, 1.0, -1.0)
    assert over_seeds(differences[None]).stderr == pytest.approx(100 * of_mean(differences, ddof=1))
