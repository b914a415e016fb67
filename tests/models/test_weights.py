"""Every wrong checkpoint is one clear line and leaves the network alone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bnrecal.errors import BnrecalError
from bnrecal.models.checkpoint_file import read_state
from bnrecal.models.weights import file_hash, install, state_dict_hash


def load_state(network: nn.Module, path: Path, sha256: str | None = None) -> None:
    install(network, read_state(path, sha256), str(path))


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    torch.save(small().state_dict(), path)
    return path


def test_loads_what_was_saved(saved: Path) -> None:
    network = small()
    load_state(network, saved, file_hash(saved))
    assert torch.equal(network.state_dict()["0.weight"], torch.load(saved, weights_only=True)["0.weight"])


def test_loads_a_wrapped_state_and_half_precision(tmp_path: Path) -> None:
    reference = small().half()
    network = small()
    torch.save({"state_dict": reference.state_dict(), "epoch": 3}, tmp_path / "wrapped.pth")
    load_state(network, tmp_path / "wrapped.pth")
    assert torch.equal(network.state_dict()["0.weight"], reference.state_dict()["0.weight"].float())
    assert network.state_dict()["0.weight"].dtype == torch.float32


def test_counters_of_batchnorm_may_be_absent(tmp_path: Path) -> None:
    state = small().state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pth")
    load_state(small(), tmp_path / "old.pth")


def test_hash_sees_names_values_and_types() -> None:
    torch.manual_seed(0)
    network = small()
    before = state_dict_hash(network)
    assert before == state_dict_hash(network)
    network.get_buffer("1.running_mean")[0] += 1
    assert before != state_dict_hash(network)
    assert state_dict_hash(nn.Conv2d(3, 4, 1)) != before
    assert state_dict_hash(small().half()) != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("0.bias"), "0.bias is missing"),
        (
            lambda state: state.update({"0.weight": torch.zeros(4, 3, 3, 3)}),
            r"0.weight is \(4, 3, 3, 3\), expected",
        ),
        (lambda state: state.update({"2.weight": torch.zeros(1)}), "it has no 2.weight"),
        (lambda state: state["0.weight"].fill_(float("nan")), "NaN or infinity in 0.weight"),
        (lambda state: state.update({"0.weight": 3}), "holds no state_dict"),
    ],
)
def test_wrong_states_are_named(saved: Path, damage: object, message: str) -> None:
    state = torch.load(saved, weights_only=True)
    assert callable(damage)
    damage(state)
    torch.save(state, saved)
    network = small()
    before = state_dict_hash(network)
    with pytest.raises(BnrecalError, match=message) as error:
        load_state(network, saved)
    assert "\n" not in str(error.value)
    assert state_dict_hash(network) == before


@pytest.mark.parametrize("keep", [0, 10, 700])
def test_truncated_file(saved: Path, keep: int) -> None:
    whole_hash = file_hash(saved)
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(BnrecalError, match=r"small\.pth") as error:
        load_state(small(), saved)
    assert "\n" not in str(error.value)
    with pytest.raises(BnrecalError, match="damaged or another file"):
        load_state(small(), saved, whole_hash)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(BnrecalError, match="no checkpoint at"):
        load_state(small(), tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint\n")
    with pytest.raises(BnrecalError, match=r"text\.pth"):
        load_state(small(), tmp_path / "text.pth")
    torch.save(nn.ReLU(), tmp_path / "module.pth")
    with pytest.raises(BnrecalError, match=r"holds a whole network \(torch.nn.modules.activation.ReLU\)"):
        load_state(small(), tmp_path / "module.pth")
