"""Standard errors of a share and of a mean; `significance` adds the one over several seeds."""

import numpy as np
import numpy.typing as npt


def of_share(share: float, count: int) -> float:
    """Standard error of a share of `count` independent cases (binomial).

    Args:
        share: in 0..1; so is what is returned.
    """
    return float(np.sqrt(share * (1 - share) / count))


def of_mean(values: npt.NDArray[np.float64], *, ddof: int) -> float:
    """Standard error of the mean of independent values, in their unit.

    Args:
        values: float64 (count,).
        ddof: 1 estimates the variance without bias; 0 is its maximum-likelihood estimate, which for values of 0 and 1
            is the binomial one. They differ by a factor of sqrt((count - 1) / count).
    """
    return float(values.std(ddof=ddof) / np.sqrt(len(values)))
