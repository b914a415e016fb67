import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.nets import glyph_net
from helpers.small import config
from torch import nn

import bnrecal.experiment.run
from bnrecal.batchnorm.recalibrate import recalibrate_
from bnrecal.data.loader import ImageLoader
from bnrecal.data.selection import Selection
from bnrecal.device import describe_device
from bnrecal.errors import BnrecalError
from bnrecal.evaluation import process_group
from bnrecal.evaluation.accuracy import Correctness, evaluate, percent
from bnrecal.experiment.identity import content_key
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.provenance import versions
from bnrecal.experiment.results import Result, read_result, summary, write_result
from bnrecal.experiment.run import describe, run, run_variants
from bnrecal.experiment.setup import identify, load, prepare
from bnrecal.experiment.variant import A8W8, Variant
from bnrecal.nbsmt.analysis.machine import describe_engine
from bnrecal.quantization.fused import describe_fusion
from bnrecal.quantization.layer_plan import plan_speedup
from bnrecal.quantization.systolic import cycle_speedup, network_cycles
from bnrecal.seeds import derive_seed


@pytest.fixture(scope="module")
def recalibrated() -> Result:
    return run(config("recal=true", "save_checkpoint=true"))


def test_a_result_reports_what_was_measured(recalibrated: Result, tmp_path: Path) -> None:
    path = write_result(recalibrated, tmp_path, checkpoint=True)
    result = read_result(path)
    assert not {"outcome", "fp32_outcome", "layers", "batchnorm", "state_dict"} & result.keys()
    assert (result["model"], result["data"], result["threads"], result["recal"]) == ("custom", "glyphs", 4, True)
    assert result["images"] == 60
    assert result["drop"] == pytest.approx(result["fp32_top1"] - result["top1"])
    assert result["gain"] == pytest.approx(result["top1"] - result["top1_wo_recal"])
    assert result["gain_p"] is not None
    assert 0 < result["gain_p"] <= 1
    assert result["exceptions"] == {"stem": "first convolution: float32", "depthwise": "depthwise: 1 thread"}
    assert result["layer_exceptions"] == {
        "stem": {"kind": "first convolution", "threads": 0},
        "depthwise": {"kind": "depthwise", "threads": 1},
    }
    source = result["provenance"]
    assert source["config"]["smt"]["threads"] == 4
    assert source["images"]["calibration"]["images"] == 40
    assert {"torch", "bnrecal", "source", "python"} <= source["versions"].keys()
    assert len(source["weights_hash"]) == 64
    reported = summary(result, path)
    assert "gain" in reported
    assert describe_engine(torch.device("cpu")) in reported


def test_a_result_carries_all_that_its_experiment_was(recalibrated: Result) -> None:
    experiment = prepare(load(config("recal=true", "save_checkpoint=true")))
    variant = Variant(4, True)
    plans = prepare_variants(experiment, [variant])[variant].plans
    images = {
        "calibration": experiment.calibration.provenance(experiment.source),
        "validation": experiment.validation.provenance(experiment.source),
        "recalibration": experiment.recalibration.provenance(experiment.source),
    }
    assert recalibrated.provenance == {
        "content": content_key(experiment.identity),
        "identity": experiment.identity,
        "config": asdict(experiment.config),
        "versions": versions(),
        "device": describe_device(experiment.device),
        "device_kind": "cpu",
        "engine": describe_engine(experiment.device),
        "fusion": asdict(describe_fusion(experiment.model.network, experiment.device)),
        "weights": "helpers.nets:glyph_net",
        "weights_hash": experiment.model.weights_hash,
        "images": images,
    }
    assert identify(experiment.config) == experiment.identity
    assert "recalibration" not in identify(config("recalibration.images=50000"))["images"]  # nor are they demanded
    assert (recalibrated.seed, recalibrated.policy) == (0, "A")
    assert recalibrated.speedup == plan_speedup(plans)
    assert recalibrated.cycles == network_cycles(plans, 16, 16)
    assert recalibrated.cycle_speedup == cycle_speedup(plans, 16, 16) > 1
    assert 0 < recalibrated.seconds < 3600
    assert round(recalibrated.seconds, 2) == recalibrated.seconds
    assert recalibrated.fp32_outcome is not None
    assert percent(recalibrated.fp32_outcome.top1) == recalibrated.fp32_top1


def test_tables_and_weights_can_be_made_later(recalibrated: Result) -> None:
    later = describe(load(config("recal=true")))
    assert later.layers is not None
    assert later.layers.equals(recalibrated.layers)
    assert later.batchnorm is not None
    assert later.batchnorm.equals(recalibrated.batchnorm)
    assert later.state_dict is not None
    assert recalibrated.state_dict is not None
    assert all(torch.equal(tensor, recalibrated.state_dict[name]) for name, tensor in later.state_dict.items())


def test_accuracies_are_handed_over_before_the_tables_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Result] = []

    def no_tables(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(bnrecal.experiment.run, "describe_layers", no_tables)
    with pytest.raises(MemoryError):
        run(config("smt.threads=2"), measured=seen.append)
    assert [(result.threads, result.layers) for result in seen] == [(2, None)]


def test_layers_and_batchnorms_are_described(recalibrated: Result, tmp_path: Path) -> None:
    write_result(recalibrated, tmp_path)
    layers = pd.read_csv(tmp_path / "layers.csv").set_index("name")
    assert list(layers.index) == ["stem", "conv2", "depthwise", "dilated"]
    assert layers.loc["conv2", "threads"] == 4
    assert re.fullmatch(r"[\w-]+: .*dense.*", layers.loc["conv2", "engine"])
    shares = layers.loc["conv2", [f"active_{p}" for p in range(5)]].astype(float)
    assert shares.sum() == pytest.approx(1)
    assert layers.loc["depthwise", "mse"] == 0  # one thread is exact
    assert layers.loc["conv2", "mse"] > 0
    assert pd.read_csv(tmp_path / "batchnorm.csv")["mean_shift"].iloc[1:].gt(0).all()


def test_the_checkpoint_is_the_float_network_with_new_statistics(recalibrated: Result) -> None:
    assert recalibrated.state_dict is not None
    original = glyph_net().state_dict()
    network = glyph_net()
    network.load_state_dict(recalibrated.state_dict)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, original[name])}
    assert changed
    assert all("running" in name or "num_batches" in name for name in changed)


def test_same_seed_same_result_and_another_seed_another_choice(recalibrated: Result) -> None:
    again = run(config("recal=true", "save_checkpoint=true"))
    assert replace(again, seconds=recalibrated.seconds) == recalibrated
    other = run(config("recal=true", "seed=1"))
    images = [r.provenance["images"] for r in (recalibrated, other)]
    assert images[0]["validation"] == images[1]["validation"]
    assert images[0]["calibration"]["fingerprint"] != images[1]["calibration"]["fingerprint"]


def test_variants_in_one_pass_equal_runs_of_their_own(recalibrated: Result) -> None:
    experiment = prepare(load(config()))
    variants = [Variant(4, True), Variant(2, False), A8W8, Variant(4, False, (("dilated", 1),))]
    together = run_variants(experiment, variants)
    assert together[0].outcome is not None
    assert recalibrated.outcome is not None
    assert np.array_equal(together[0].outcome.top1, recalibrated.outcome.top1)
    alone = run(config("smt.threads=2"))
    assert alone.outcome is not None
    assert together[1].outcome is not None
    assert np.array_equal(alone.outcome.top1, together[1].outcome.top1)
    assert together[1].provenance == alone.provenance
    assert together[2].top1 == together[2].a8w8_top1
    assert together[3].speedup < together[0].speedup


@pytest.mark.usefixtures("several_processes")
def test_two_processes_measure_what_one_does() -> None:
    alone = run(config("recal=true", "device=cpu"))
    shared = run(config("recal=true", "device=cpu", "gpus=2"))
    assert shared.outcome is not None
    assert alone.outcome is not None
    assert np.array_equal(shared.outcome.top1, alone.outcome.top1)
    assert shared.layers is not None  # the networks are back where they were
    assert shared.layers.equals(alone.layers)


def test_the_validation_images_are_shared_out_where_there_are_several_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared: list[tuple[int, int]] = []

    def on_ranks(
        networks: dict[Variant | None, nn.Module],
        loader: ImageLoader,
        selection: Selection,
        batch_size: int,
        gpus: int,
        **judging: Any,
    ) -> dict[Variant | None, Correctness]:
        shared.append((gpus, batch_size))
        return evaluate(networks, loader.batches(selection, batch_size), **judging)

    monkeypatch.setattr(bnrecal.experiment.run, "evaluate_on_ranks", on_ranks)
    alone = config("device=cpu", "batch_size=16")
    run(alone)
    assert not shared
    run(replace(alone, gpus=2))
    monkeypatch.setattr(process_group, "world", lambda: 2)
    run(alone)
    assert shared == [(2, 16), (1, 16)]


def test_recalibration_is_the_plain_library_call_on_the_threaded_network() -> None:
    experiment = prepare(load(config("recalibration.augment=false")))
    prepared = prepare_variants(experiment, [Variant(4, False), Variant(4, True)])
    by_hand = prepared[Variant(4, False)].network
    seed = derive_seed(0, "recalibration")
    recalibrate_(by_hand, experiment.loader.images(experiment.recalibration, 16, seed=seed))
    for (name, one), (_, other) in zip(
        by_hand.named_buffers(), prepared[Variant(4, True)].network.named_buffers(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["calibration.images=50000"], "calibration asks for 50000 images, the train split of glyphs has"),
        (["recal=true", "recalibration.images=50000"], "recalibration asks for 50000 images"),
        (["batch_size=61"], "batch_size=61 is more than the 60 validation images"),
        (
            ["recal=true", "recalibration.batch_size=49"],
            "recalibration.batch_size=49 is more than the 48 recalibration images",
        ),
        (["model.factory=helpers.nets:no_batchnorm", "recal=true"], "no BatchNorm layer"),
        (["smt.layers={nothere: 2}"], "smt.layers names nothere"),
        (["quant.skip=[nothere]"], "^quant.skip names nothere"),
        (["smt.bits=6"], "smt.bits=6: choose one of 3, 4, 5"),
        (["smt.bits=3", "smt.rounding=floor"], "smt.bits=3 goes with .* leave the others out"),
        (["smt.policy=helpers.policies:INEXACT"], r"product\(a=1, b=-127, active=1\) is -128: one active thread"),
        (["smt.reorder=random"], "smt.reorder=random: choose one of none, activity, bits, random:N"),
    ],
)
def test_bad_input_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        run(config(*overrides))


def test_a_corrupt_result_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(BnrecalError, match="is not a result of bnrecal"):
        read_result(tmp_path / "result.json")
