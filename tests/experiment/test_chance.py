"""A float32 network that answers by chance stops a run, early and with the likely causes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from helpers import shipped
from helpers.small import config
from torch import Tensor
from torch.utils.data import Dataset

from bnrecal.data.base import ImageSource, Split
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import Correctness
from bnrecal.experiment import run as module
from bnrecal.experiment.chance import at_chance, refuse_chance

CHANCE = r"float32 top-1 is [\d.]+ % on \d+ validation images, hardly better than chance among 96 classes"


@pytest.mark.parametrize(
    ("correct", "images", "classes"),
    [(0, 300, 1000), (3, 300, 1000), (150, 50_000, 1000), (50, 50_000, 1000), (1, 60, 96), (30, 300, 10), (50, 100, 2)],
)
def test_what_wrong_labels_give_is_chance(correct: int, images: int, classes: int) -> None:
    """Labels in another order fit a few classes by accident: 0.3 % in 1,000 classes are still chance."""
    assert at_chance(correct, images, classes)


@pytest.mark.parametrize(
    ("correct", "images", "classes"),
    [(30, 300, 1000), (1000, 50_000, 1000), (10, 60, 96), (100, 300, 10), (80, 100, 2), (1, 1, 1), (300, 300, 1)],
)
def test_what_a_poor_network_gives_is_not(correct: int, images: int, classes: int) -> None:
    assert not at_chance(correct, images, classes)


@pytest.mark.parametrize(("images", "classes"), [(8, 96), (20, 96), (60, 1000), (2, 10)])
def test_a_few_images_never_are(images: int, classes: int) -> None:
    assert not any(at_chance(correct, images, classes) for correct in range(images + 1))


class Relabelled(ImageSource):
    """A data set with other labels."""

    def __init__(self, source: ImageSource, labels: Sequence[int]) -> None:
        self.source = source
        self.name = source.name
        self.num_classes = source.num_classes
        self.in_memory = True
        self.label_of = labels

    def size(self, split: Split) -> int:
        return self.source.size(split)

    def dataset(
        self, split: Split, indices: Sequence[int], preprocessing: Preprocessing, *, augment: bool = False
    ) -> Dataset[tuple[Tensor, int]]:
        items = self.source.dataset(split, indices, preprocessing, augment=augment)
        pairs = [items[i] for i in range(len(indices))]
        return cast(Dataset[tuple[Tensor, int]], [(image, self.label_of[label]) for image, label in pairs])

    def fingerprint(self, split: Split, indices: Sequence[int]) -> str:
        return self.source.fingerprint(split, indices)


def _refusal(labels: Sequence[int]) -> str:
    experiment = shipped.experiment()
    with pytest.raises(BnrecalError) as caught:
        refuse_chance(replace(experiment, source=Relabelled(experiment.source, labels)), None)
    assert re.match(CHANCE, str(caught.value))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_trained_network_goes_on_and_with_other_labels_does_not() -> None:
    refuse_chance(shipped.experiment(), None)
    shuffled = np.random.default_rng(0).permutation(96).tolist()
    message = _refusal(shuffled)
    assert "counted from 1" not in message
    for cause in ("data.root", "model.checkpoint", "model.mean", "data.allow_chance=true"):
        assert cause in message


def test_labels_counted_from_1_are_recognised() -> None:
    assert re.search(r"with every label lower by 1 it is [6-9]\d\.\d %, so labels", _refusal([*range(1, 96), 95]))


def test_labels_counted_from_1_are_recognised_though_neighbouring_classes_are_alike() -> None:
    """Photographs of neighbouring classes are often taken for each other: more are right than by chance."""
    experiment = shipped.experiment()
    right = np.arange(64) % 10 == 0
    refuse_chance(experiment, Correctness(right, right))
    wrong = replace(experiment, source=Relabelled(experiment.source, [*range(1, 96), 95]))
    with pytest.raises(BnrecalError, match=r"is 10\.94 % .* labels are counted from 1"):
        refuse_chance(wrong, Correctness(right, right))


def test_a_known_outcome_is_not_measured_again() -> None:
    wrong = np.zeros(300, dtype=bool)
    with pytest.raises(BnrecalError, match=r"is 0\.00 % on 300 validation images"):
        refuse_chance(shipped.experiment(), Correctness(wrong, wrong))


def _not_reached(*_: object) -> None:
    raise AssertionError("cells were computed")


def test_a_run_stops_before_any_cell_unless_reported_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare_variants", _not_reached)
    with pytest.raises(BnrecalError, match=CHANCE):
        module.run(config("data.allow_chance=false"))
    with pytest.raises(AssertionError, match="cells were computed"):
        module.run(config("data.allow_chance=true"))
