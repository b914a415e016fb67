"""One folder, one experiment: nothing stale taken, nothing finished lost, nothing measured twice."""

import json
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from helpers.gain import gain_net
from helpers.small import config
from torch import nn

import bnrecal.experiment.networks
import bnrecal.experiment.run
import bnrecal.experiment.setup
from bnrecal.config import Config
from bnrecal.experiment import baselines
from bnrecal.experiment.cell import finished, run_into
from bnrecal.experiment.networks import recalibrate_network
from bnrecal.experiment.records import ResultRecord
from bnrecal.experiment.run import run
from bnrecal.experiment.setup import Experiment, load
from bnrecal.experiment.store import Store
from bnrecal.experiment.variant import A8W8

GAIN = "model.factory=helpers.gain:gain_net"


def found(experiment: Config, folder: Path) -> ResultRecord | None:
    result = finished(experiment, folder)
    return None if result is None else result.result


def no_evaluation(*_: object, **__: object) -> NoReturn:
    raise AssertionError("measured again")


def out_of_memory(*_: object, **__: object) -> NoReturn:
    raise MemoryError


def test_a_finished_experiment_is_found_and_a_changed_one_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "weights.pth"
    experiment = config(GAIN, f"model.checkpoint={checkpoint}")
    save_gain_weights(checkpoint, 1.0)
    first = run_into(experiment, tmp_path / "cell").result
    assert found(experiment, tmp_path / "cell") == first
    save_gain_weights(checkpoint, -1.0)
    assert finished(experiment, tmp_path / "cell") is None
    assert "cell is measured again: what the float network answers, the weights changed" in caplog.text
    second = run_into(experiment, tmp_path / "cell").result
    assert second["provenance"]["weights_hash"] != first["provenance"]["weights_hash"]
    monkeypatch.setattr(bnrecal.experiment.run, "evaluate", no_evaluation)
    assert found(experiment, tmp_path / "cell") == second


def save_gain_weights(path: Path, sign: float) -> None:
    network = gain_net()
    with torch.no_grad():
        network.get_parameter("network.fc.weight").mul_(sign)
    torch.save(network.state_dict(), path)


def test_weights_alone_do_not_find_a_baseline() -> None:
    """Another argument of the factory makes another network of the same weights."""
    one, other = (config(GAIN, "data.val_images=59", f"model.kwargs={{gain: {gain}}}") for gain in (1, -8))
    run(one)
    assert set(baselines.load(load(one))) == {None, A8W8}
    assert baselines.load(load(other)) == {}


def test_a_checkpoint_asked_for_later_is_written_and_nothing_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_into(config("recal=true"), tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    assert not (tmp_path / "checkpoint.pth").exists()
    later = config("recal=true", "save_checkpoint=true")
    assert finished(later, tmp_path) is None
    monkeypatch.setattr(bnrecal.experiment.run, "evaluate", no_evaluation)
    run_into(later, tmp_path)
    assert finished(later, tmp_path) is not None
    assert (tmp_path / "result.json").read_bytes() == before
    state = torch.load(tmp_path / "checkpoint.pth")
    monkeypatch.undo()
    run_into(config("recal=true", "save_checkpoint=true"), tmp_path / "other")
    other = torch.load(tmp_path / "other" / "checkpoint.pth")
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def test_accuracies_outlive_the_per_layer_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = config("smt.policy=W")
    with monkeypatch.context() as patch:
        patch.setattr(bnrecal.experiment.run, "describe_layers", out_of_memory)
        with pytest.raises(MemoryError):
            run_into(experiment, tmp_path)
    kept = json.loads((tmp_path / "result.json").read_text())
    assert finished(experiment, tmp_path) is None
    monkeypatch.setattr(bnrecal.experiment.run, "evaluate", no_evaluation)
    assert run_into(experiment, tmp_path).result == kept
    assert found(experiment, tmp_path) == kept
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "layers.csv", "batchnorm.csv"}


def test_another_experiments_files_do_not_stay_beside_a_new_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("layers.csv", "batchnorm.csv", "checkpoint.pth"):
        (tmp_path / name).write_text("of another experiment")
    monkeypatch.setattr(bnrecal.experiment.run, "describe_layers", out_of_memory)
    with pytest.raises(MemoryError):
        run_into(config("smt.policy=aW"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"result.json"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"top1": 1, "provenance": {}}', '{"top1": 1, "provenance": 3}']
)
def test_a_damaged_result_is_measured_again(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "result.json").write_text(content)
    assert finished(config(), tmp_path) is None
    assert "result.json is damaged or of an earlier version: measured again" in caplog.text


def test_without_resume_nothing_is_taken(tmp_path: Path) -> None:
    def experiment(*more: str) -> Config:
        return config("smt.policy=Aw", *more)

    run_into(experiment(), tmp_path)
    assert finished(experiment(), tmp_path) is not None
    assert finished(experiment("resume=false"), tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"identity": 3}'])
def test_a_damaged_cell_is_made_again(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    made = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"value": len(made)}

    identity = {"settings": {"seed": 0}}
    assert store.get("piece", identity, make) == {"value": 1}
    assert store.get("piece", identity, make) == {"value": 1}
    store.path("piece").write_text(content)
    assert store.get("piece", identity, make)["value"] == 2
    assert "piece.json is" in caplog.text
    assert store.get("piece", {"settings": {"seed": 1}}, make)["value"] == 3
    assert "made again: seed changed" in caplog.text
    assert store.get("piece", {"settings": {"seed": 1}}, make, resume=False)["value"] == 4


def test_what_recalibration_gains_without_threads_is_measured_once_in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def recalibrate(experiment: Experiment, network: nn.Module, progress: str) -> None:
        calls.append(progress)
        recalibrate_network(experiment, network, progress)

    monkeypatch.setattr(bnrecal.experiment.networks, "recalibrate_network", recalibrate)
    sweep = [config("recal=true", "seed=5", f"smt.threads={threads}") for threads in (2, 4)]
    first, second = map(run, sweep)
    assert calls == ["recalibration, 2T", "recalibration, 1T", "recalibration, 4T"]
    assert first.control_gain == second.control_gain
    run(config("recal=true", "seed=5", "recalibration.augment=false"))
    assert calls[3:] == ["recalibration, 4T", "recalibration, 1T"]  # another control
