"""What can change a number changes its identity; what cannot does not."""

import json
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import cast

import pandas as pd
import pytest
import torch
from helpers.gain import gain_net
from helpers.imagenet_tree import make_imagenet_tree
from helpers.small import config

import bnrecal.experiment.identity
import bnrecal.models.mini
from bnrecal.experiment.identity import PROBE_TOLERANCE, Identity, content_key, differences
from bnrecal.experiment.provenance import settings_key
from bnrecal.experiment.setup import Experiment, identify, load, prepare
from bnrecal.models.weights import file_hash
from bnrecal.search.config import SearchConfig
from bnrecal.search.local_search import Choice, Search
from bnrecal.search.plans import save_plan

BASE = ["model.factory=helpers.gain:gain_net", "recal=true"]

# setting -> how a change is reported
CHANGES = {
    "quant.act_range=max": "quant.act_range",
    "quant.skip=[conv2]": "quant.skip",
    "smt.threads=2": "smt.threads",
    "smt.policy=W": "smt.policy",
    "smt.sparsity=false": "smt.sparsity",
    "smt.rounding=floor": "smt.rounding",
    "smt.bits=3": "smt.bits",
    "smt.reorder=bits": "smt.reorder",
    "smt.saturate=false": "smt.saturate",
    "smt.layers={network.conv2: 2}": "smt.layers",
    "smt.array.rows=8": "smt.array.rows",
    "recal=false": "recal",
    "calibration.images=41": "calibration.images",
    "recalibration.method=pooled": "recalibration.method",
    "recalibration.images=47": "recalibration.images",
    "recalibration.batch_size=8": "recalibration.batch_size",
    "recalibration.momentum=0.2": "recalibration.momentum",
    "recalibration.augment=false": "recalibration.augment",
    "batch_size=30": "batch_size",
    "seed=1": "seed",
    "data.val_images=61": "data.val_images",
    "tf32=true": "tf32",
    "model.mean=[0.4,0.5,0.5]": "the preprocessing",
    "model.kwargs={gain: 2}": "what the float network answers",
}


@cache
def identity_of(*settings: str) -> Identity:
    """The identity of what many settings are compared with."""
    return identify(config(*BASE, *settings))


@pytest.mark.parametrize(("change", "reported"), CHANGES.items())
def test_a_setting_that_can_change_a_number_changes_its_identity(change: str, reported: str) -> None:
    before = config(*BASE)
    after = config(*BASE, change)
    one = identity_of()
    other = identify(after)
    assert reported in differences(one, other)
    assert content_key(one) != content_key(other)
    assert settings_key(before) != settings_key(after)


@pytest.mark.parametrize("part", ["images", "settings", "versions", "seed"])
def test_a_part_that_one_of_them_lacks_is_named(part: str) -> None:
    one: Identity = {part: {"smt.threads": 4}}
    assert differences(one, {}) == differences({}, one) == [part]


# what comes before the change, the change
NO_CHANGES = [
    ([], "workers=1"),
    ([], "gpus=2"),
    ([], "resume=false"),
    ([], "save_checkpoint=true"),
    ([], "data.download=true"),
    ([], "data.allow_chance=false"),
    (["recal=false"], "recalibration.method=pooled"),
    (["recal=false"], "recalibration.images=40"),
    (["recal=false"], "recalibration.batch_size=8"),
    (["recal=false"], "recalibration.augment=false"),
    (["recalibration.method=pooled"], "recalibration.momentum=0.5"),
    (["recalibration.method=cumulative"], "recalibration.momentum=0.5"),
]


@pytest.mark.parametrize(("before", "change"), NO_CHANGES)
def test_a_setting_that_cannot_change_a_number_does_not(before: list[str], change: str) -> None:
    one = config(*BASE, *before)
    other = config(*BASE, *before, change)
    found = identify(other)
    assert differences(identity_of(*before), found) == []
    assert content_key(identity_of(*before)) == content_key(found)
    assert settings_key(one) == settings_key(other)


def save_weights(path: Path, seed: int) -> None:
    network = gain_net()
    with torch.no_grad():
        torch.nn.init.normal_(network.get_parameter("network.fc.weight"), generator=torch.Generator().manual_seed(seed))
    torch.save(network.state_dict(), path)


def test_a_checkpoint_counts_by_its_content_not_its_path(tmp_path: Path) -> None:
    first, moved = tmp_path / "first.pth", tmp_path / "moved = (1), é.pth"
    save_weights(first, 0)
    experiment = config(*BASE, f"model.checkpoint={first}")
    before = identify(experiment)
    shutil.copy(first, moved)
    assert differences(before, identify(config(*BASE, f'model.checkpoint="{moved}"'))) == []
    save_weights(first, 1)
    assert "the weights" in differences(before, identify(experiment))


def test_a_plan_counts_by_its_content_not_its_path(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"layers": {"network.conv2": 2}}))
    experiment = config(*BASE, f"smt.plan={plan}")
    before = identify(experiment)
    assert differences(before, identify(config(*BASE, "smt.layers={network.conv2: 2}"))) == []
    plan.write_text(json.dumps({"layers": {"network.conv2": 1}}))
    assert differences(before, identify(experiment)) == ["smt.layers"]


def test_the_order_of_globs_counts() -> None:
    one = config(*BASE, "smt.layers={network.c*: 2, network.*: 1}")
    other = config(*BASE, "smt.layers={network.*: 1, network.c*: 2}")
    assert differences(identify(one), identify(other)) == ["smt.layers"]


def test_an_edited_factory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "edited_factory.py"
    source.write_text("from helpers.nets import glyph_net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = config("model.factory=edited_factory:glyph_net")
    before = identify(experiment)
    source.write_text("from helpers.nets import glyph_net\n\nEDITED = True\n")
    assert differences(before, identify(experiment)) == ["the network's code or arguments"]
    del sys.modules["edited_factory"]


def test_a_replaced_shipped_checkpoint_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = config("model=mobilenet_v1", "model.factory=null")
    before = identify(experiment)
    shipped = bnrecal.models.mini.CHECKPOINTS["mobilenet_v1"]
    state = torch.load(bnrecal.models.mini.CHECKPOINT_FOLDER / shipped.file)
    torch.save({name: 1.01 * tensor for name, tensor in state.items()}, tmp_path / shipped.file)
    own = type(shipped)(shipped.architecture, shipped.file, file_hash(tmp_path / shipped.file))
    monkeypatch.setattr(bnrecal.models.mini, "CHECKPOINT_FOLDER", tmp_path)
    monkeypatch.setitem(bnrecal.models.mini.CHECKPOINTS, "mobilenet_v1", own)
    assert "the weights" in differences(before, identify(experiment))


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_that_was_replaced_counts(split: str, tmp_path: Path) -> None:
    make_imagenet_tree(tmp_path / "tree")
    arguments = ["data=imagenet", "data.val_images=null", "model.kwargs={classes: 1000}", "model.crop=32"]
    experiment = config(*arguments, f"data.root={tmp_path / 'tree'}")
    before = identify(experiment)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "tree", moved)  # names, sizes and times stay
    assert differences(before, identify(config(*arguments, f"data.root={moved}"))) == []
    for image in (tmp_path / "tree" / split).rglob("*.JPEG"):
        os.utime(image, ns=(1, 1))
    role = "validation" if split == "val" else "calibration"
    assert differences(before, identify(experiment)) == [f"the {role} images"]


def test_code_and_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identify(config(*BASE))
    monkeypatch.setattr(bnrecal.experiment.identity, "source_hash", lambda: "other")
    monkeypatch.setattr(bnrecal.experiment.identity, "versions", lambda: {"torch": "0", "source": "other"})
    changed = differences(before, identify(config(*BASE)))
    assert {"bnrecal's code", "the version of torch"} <= set(changed)


def test_the_probe_is_compared_within_a_tolerance() -> None:
    def network(*values: float) -> dict[str, object]:
        return {"network": {"probe": list(values)}}

    near, far = 10 * (1 + PROBE_TOLERANCE / 2), 10 * (1 + 2 * PROBE_TOLERANCE)
    assert differences(network(10, 0.0), network(near, 0.0)) == []
    assert content_key(network(10, 0.0)) == content_key(network(near, 0.0))
    assert differences(network(10, 0.0), network(far, 0.0)) == ["what the float network answers"]
    assert differences(network(10, 0.0), network(10)) == ["what the float network answers"]


class Found:
    """What `save_plan` asks of a search."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.selection = experiment.calibration
        self.config = SearchConfig()
        self.probe = self.heldout = self


def plan_path(out: Path, *changes: str) -> Path:
    experiment = prepare(load(config(*BASE, *changes)))
    choice = Choice({"network.conv2": 2, "network.dilated": 4}, 3.0, 0.0, 0.0, "swaps")
    return save_plan(cast(Search, Found(experiment)), 3.0, choice, None, pd.DataFrame(), 1, out)


@pytest.mark.parametrize("change", ["seed=1", "smt.policy=W", "model.kwargs={gain: 2}", "calibration.images=41"])
def test_plans_of_different_experiments_lie_in_different_files(change: str, tmp_path: Path) -> None:
    first = plan_path(tmp_path)
    assert plan_path(tmp_path) == first
    assert plan_path(tmp_path, change) != first
