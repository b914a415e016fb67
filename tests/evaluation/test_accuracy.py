import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import evaluate, percent, standard_error
from bnrecal.evaluation.significance import mcnemar


class Fixed(nn.Module):
    """Answers every image with the logits that its first pixel row spells out."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0] * self.factor


def rows(*logits: list[float]) -> Tensor:
    return torch.tensor(logits).view(len(logits), 1, 1, -1).expand(-1, 3, 1, -1)


LOGITS = rows([9, 1, 2, 3, 4, 5, 6], [1, 9, 2, 3, 4, 5, 6], [0, 1, 9, 8, 7, 6, 5])


def test_top1_top5_and_several_networks_in_one_pass() -> None:
    batches = [(LOGITS[:2], torch.tensor([0, 0])), (LOGITS[2:], torch.tensor([6]))]
    right = evaluate({"plain": Fixed(), "upside down": Fixed(-1)}, batches)
    assert right["plain"].top1.tolist() == [True, False, False]
    assert right["plain"].top5.tolist() == [True, False, True]
    assert right["upside down"].top1.tolist() == [False, True, False]
    assert percent(right["plain"].top1) == pytest.approx(100 / 3)


def test_label_offset_and_restricted_classes() -> None:
    batches = [(LOGITS, torch.tensor([0, 0, 2]))]
    shifted = evaluate({"n": Fixed()}, batches, label_offset=1, restricted_classes=[0, 2])["n"]
    assert shifted.top1.tolist() == [False, True, False]
    assert shifted.restricted is not None
    assert shifted.restricted.tolist() == [False, True, True]  # logits 1 and 3 alone compete


def test_unreadable_images_are_counted_and_left_out() -> None:
    outcome = evaluate({"n": Fixed()}, [(LOGITS, torch.tensor([0, -1, 2]))])["n"]
    assert (outcome.images, outcome.skipped) == (2, 1)
    assert outcome.top1.tolist() == [True, True]


@pytest.mark.parametrize(
    ("network", "labels", "message"),
    [
        (Fixed(float("nan")), [0, 1, 2], "^the bad network gives logits that are not finite: check the weights$"),
        (
            Fixed(),
            [0, 1, 7],
            "^the network has 7 classes, the images have a label 7: choose a model and a data set of matching classes$",
        ),
        (nn.Flatten(0), [0, 1, 2], r"must return logits \(images, classes\), not a tensor of shape \(63,\)"),
        (Fixed(), [-1, -1, -1], "no readable validation image"),
    ],
)
def test_nonsense_is_an_error(network: nn.Module, labels: list[int], message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        evaluate({"bad": network}, [(LOGITS, torch.tensor(labels))])


def test_standard_error() -> None:
    assert standard_error(np.array([True] * 80 + [False] * 20)) == pytest.approx(4.0)


def test_mcnemar_is_the_exact_binomial_test_of_the_changes() -> None:
    before = np.array([True] * 50 + [False] * 50)
    after = before.copy()
    after[45:50] = False  # 5 lost
    after[50:65] = True  # 15 gained
    assert mcnemar(before, after) == pytest.approx(2 * binom.cdf(5, 20, 0.5))
    assert mcnemar(after, before) == pytest.approx(mcnemar(before, after))
    assert mcnemar(before, before) == 1.0
