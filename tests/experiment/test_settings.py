"""Settings of a network that mostly answers right, beside those of `test_changes.py`."""

from itertools import combinations

import pytest
import torch
from helpers import shipped

from bnrecal.options import POLICIES

PLAIN = ("smt.threads=4",)


def test_the_network_answers_mostly_right() -> None:
    right = (shipped.float_logits().argmax(1) == shipped.labels()).float().mean()
    assert right > 0.7


@pytest.mark.parametrize("override", ["smt.threads=1", "smt.bits=5", "smt.reorder=activity", "smt.reorder=random:1"])
def test_a_setting_changes_the_answers(override: str) -> None:
    assert not torch.equal(shipped.logits(*PLAIN), shipped.logits(*PLAIN, override))


def test_each_policy_gives_answers_of_its_own() -> None:
    answers = [shipped.logits("smt.threads=2", f"smt.policy={policy}") for policy in POLICIES]
    for one, other in combinations(answers, 2):
        assert not torch.equal(one, other)


def test_each_estimator_gives_answers_of_its_own() -> None:
    recalibrated = ("smt.threads=4", "recal=true")
    answers = [shipped.logits(*recalibrated, f"recalibration.method={way}") for way in ("ema", "cumulative", "pooled")]
    for one, other in combinations(answers, 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "override", ["batch_size=16", "workers=1", "resume=false", "save_checkpoint=true", "smt.array.rows=8"]
)
def test_a_setting_of_how_it_runs_does_not(override: str) -> None:
    assert torch.equal(shipped.logits(*PLAIN), shipped.logits(*PLAIN, override))


def test_calibration_and_recalibration_take_training_images_and_the_exam_validation_images() -> None:
    experiment = shipped.experiment()
    assert (experiment.calibration.split, experiment.recalibration.split, experiment.validation.split) == (
        "train",
        "train",
        "val",
    )
