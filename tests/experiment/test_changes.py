"""Whole experiments on a shipped network: what can change a number is measured anew and gives other answers; what
cannot is found finished, and nothing is evaluated again."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import shipped
from torch import Tensor, nn

import bnrecal.experiment.cell
import bnrecal.experiment.run
from bnrecal.evaluation.accuracy import Correctness, evaluate
from bnrecal.experiment.cell import run_into
from bnrecal.experiment.results import RESULT_FILE, Details
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.variant import Variant
from bnrecal.models.mini import CHECKPOINT_FOLDER, CHECKPOINTS

LAYER = "layer2.0.conv2"
FEW = ["model=resnet18", "device=cpu", "smt.threads=4", "recal=true", "data.val_images=12", "calibration.images=12"]
FEW += ["recalibration.images=12", "recalibration.batch_size=6"]


def write_plan(path: Path, threads: int) -> Path:
    path.write_text(json.dumps({"layers": {LAYER: threads}}))
    return path


def write_weights(path: Path, factor: float) -> Path:
    """The shipped weights, the first of them multiplied."""
    state = torch.load(CHECKPOINT_FOLDER / CHECKPOINTS["resnet18"].file)
    state["conv1.weight"] *= factor
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What stands for a word in the settings below."""
    folder = tmp_path_factory.mktemp("files")
    made = {"PLAN": write_plan(folder / "plan.json", 2), "WEIGHTS": write_weights(folder / "weights.pth", 1.1)}
    moved = {f"MOVED-{name}": Path(shutil.copy(path, folder / f"moved {path.name}")) for name, path in made.items()}
    return {**moved, **made}


def answers(settings: Sequence[str], files: dict[str, Path], folder: Path) -> Tensor | None:
    """Run an experiment into `folder`: its logits (images, classes), or None if nothing was evaluated."""
    own = list(settings)
    for word, path in files.items():
        own = [setting.replace(word, f"'{path}'") for setting in own]
    experiment = shipped.config(*FEW, *own)
    logits: list[Tensor] = []

    def spy(networks: dict[Any, nn.Module], batches: Any, **how: Any) -> dict[Any, Correctness]:
        kept = list(batches)
        with torch.no_grad():
            logits.extend(networks[Variant.of(experiment)](images) for images, _ in kept)
        return evaluate(networks, kept, **how)

    def without_tables(*_: object) -> dict[str, None]:
        return {"layers": None, "batchnorm": None}

    def no_details(_: Experiment) -> Details:
        return Details(None, None, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bnrecal.experiment.run, "evaluate", spy)
        patch.setattr(bnrecal.experiment.run, "details", without_tables)
        patch.setattr(bnrecal.experiment.cell, "describe", no_details)
        run_into(experiment, folder)
    return torch.cat(logits) if logits else None


Finished = Callable[..., tuple[Path, Tensor]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Finished:
    """The folder and the logits of an experiment, which runs once."""
    done: dict[tuple[str, ...], tuple[Path, Tensor]] = {}

    def run(*settings: str) -> tuple[Path, Tensor]:
        if settings not in done:
            folder = tmp_path_factory.mktemp("finished")
            logits = answers(settings, files, folder)
            assert logits is not None
            done[settings] = (folder, logits)
        return done[settings]

    return run


@pytest.mark.parametrize(
    "change",
    [
        "smt.threads=2",
        "smt.policy=W",
        "smt.policy=helpers.policies:DROP",
        "smt.sparsity=false",
        "smt.rounding=floor",
        "smt.saturate=false",
        "smt.bits=3",
        "smt.reorder=bits",
        f"smt.layers={{{LAYER}: 2}}",
        "smt.plan=PLAN",
        "quant.act_range=max",
        f"quant.skip=[{LAYER}]",
        "calibration.images=10",
        "recal=false",
        "recalibration.method=pooled",
        "recalibration.momentum=0.3",
        "recalibration.images=6",
        "recalibration.batch_size=4",
        "recalibration.augment=false",
        "seed=1",
        "data.val_images=11",
        "model=resnet50",
        "model.checkpoint=WEIGHTS",
        "model.mean=[0.4,0.5,0.5]",
    ],
)
def test_what_can_change_a_number_changes_the_answers(
    change: str, finished: Finished, files: dict[str, Path], tmp_path: Path
) -> None:
    folder, before = finished()
    shutil.copy(folder / RESULT_FILE, tmp_path)
    after = answers([change], files, tmp_path)
    assert after is not None, "taken for finished"
    assert after.shape != before.shape or not torch.equal(after, before)


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        ([], ["workers=1"]),
        ([], ["gpus=2"]),
        ([], ["save_checkpoint=true"]),
        ([], ["data.download=true"]),
        ([], ["data.allow_chance=true"]),
        (["recal=false"], ["recalibration.method=pooled"]),
        (["recal=false"], ["recalibration.momentum=0.3"]),
        (["recal=false"], ["recalibration.images=6"]),
        (["recal=false"], ["recalibration.batch_size=4"]),
        (["recal=false"], ["recalibration.augment=false"]),
        (["recalibration.method=pooled"], ["recalibration.momentum=0.3"]),
        (["recalibration.method=cumulative"], ["recalibration.momentum=0.3"]),
        (["smt.plan=PLAN"], ["smt.plan=MOVED-PLAN"]),
        (["smt.plan=PLAN"], ["smt.plan=null", f"smt.layers={{{LAYER}: 2}}"]),
        (["model.checkpoint=WEIGHTS"], ["model.checkpoint=MOVED-WEIGHTS"]),
    ],
)
def test_after_what_cannot_change_a_number_nothing_is_evaluated(
    before: list[str], changes: list[str], finished: Finished, files: dict[str, Path]
) -> None:
    folder, _ = finished(*before)
    kept = (folder / RESULT_FILE).read_bytes()
    assert answers([*before, *changes], files, folder) is None
    assert (folder / RESULT_FILE).read_bytes() == kept


@pytest.mark.parametrize(
    ("setting", "write"), [("smt.plan=FILE", write_plan), ("model.checkpoint=FILE", write_weights)]
)
def test_other_content_under_an_old_name_changes_the_answers(
    setting: str, write: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "file", 1)
    before = answers([setting], {"FILE": path}, tmp_path / "cell")
    write(path, 2)
    after = answers([setting], {"FILE": path}, tmp_path / "cell")
    assert before is not None
    assert after is not None
    assert not torch.equal(before, after)
