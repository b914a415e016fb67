"""Every setting that can change a number does, in a network that mostly answers right."""

import pytest
import torch
from helpers import shipped

from bnrecal.options import POLICIES

PLAIN = ("smt.threads=4",)
RECALIBRATED = ("smt.threads=4", "recal=true")


def test_the_network_answers_mostly_right() -> None:
    right = (shipped.float_logits().argmax(1) == shipped.labels()).float().mean()
    assert right > 0.7


@pytest.mark.parametrize(
    "override",
    [
        "smt.threads=1",
        "smt.threads=2",
        "smt.policy=W",
        "smt.sparsity=false",
        "smt.rounding=floor",
        "smt.bits=3",
        "smt.bits=5",
        "smt.reorder=activity",
        "smt.reorder=bits",
        "smt.reorder=random:1",
        "smt.saturate=false",
        "smt.layers={model.5.4: 2}",
        "quant.act_range=max",
        "quant.skip=[model.5.4]",
        "calibration.images=32",
        "seed=1",
        "recal=true",
    ],
)
def test_a_setting_changes_the_answers(override: str) -> None:
    assert not torch.equal(shipped.logits(*PLAIN), shipped.logits(*PLAIN, override))


def test_each_policy_gives_answers_of_its_own() -> None:
    answers = [shipped.logits("smt.threads=2", f"smt.policy={policy}") for policy in POLICIES]
    for place, one in enumerate(answers):
        for other in answers[place + 1 :]:
            assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "override",
    [
        "recalibration.method=cumulative",
        "recalibration.method=pooled",
        "recalibration.momentum=0.2",
        "recalibration.images=32",
        "recalibration.batch_size=16",
        "recalibration.augment=false",
    ],
)
def test_a_setting_of_recalibration_changes_the_answers(override: str) -> None:
    assert not torch.equal(shipped.logits(*RECALIBRATED), shipped.logits(*RECALIBRATED, override))


@pytest.mark.parametrize(
    "override", ["batch_size=16", "workers=1", "resume=false", "save_checkpoint=true", "smt.array.rows=8"]
)
def test_a_setting_of_how_it_runs_does_not(override: str) -> None:
    assert torch.equal(shipped.logits(*PLAIN), shipped.logits(*PLAIN, override))


def test_calibration_and_recalibration_take_training_images_and_the_exam_validation_images() -> None:
    setup = shipped.setup()
    assert (setup.calibration.split, setup.recalibration.split, setup.validation.split) == ("train", "train", "val")
