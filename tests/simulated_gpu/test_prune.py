"""`bnrecal prune` on a simulated CUDA device: gradients, the optimizer and progress files."""

from pathlib import Path

import pytest
import torch
from helpers.fake_cuda import simulated
from helpers.small import TINY
from torch import Tensor

import bnrecal.experiment.setup
import bnrecal.training.prune
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import PruneConfig
from bnrecal.commands.prune import make_pruned
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.models.checkpoint_file import read_state

SMALL = [*TINY, "workers=0", "prune.epochs=2", "prune.step=0.4", "prune.batch_size=32", "prune.learning_rate=0.01"]


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))


def pruned(out: Path, device: str) -> dict[str, Tensor]:
    settings = read_config(PruneConfig, [*SMALL, f"out={out}", f"device={device}"])
    return read_state(make_pruned(settings, []))


def test_it_trains_there_as_on_the_cpu(tmp_path: Path) -> None:
    with simulated(2, gradients=True):
        on_gpu = pruned(tmp_path / "gpu", "cuda:1")
    on_cpu = pruned(tmp_path / "cpu", "cpu")
    for name, tensor in on_cpu.items():
        assert on_gpu[name].device.type == "cpu"
        assert torch.allclose(on_gpu[name], tensor, atol=1e-4), name
    zeros = on_gpu["conv2.weight"] == 0
    assert int(zeros.sum()) == round(0.4 * zeros.numel())


def test_an_interrupted_run_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = bnrecal.training.prune._train_epoch
    epochs: list[int] = []

    def stopped_in_the_second(*args: object) -> float:
        epochs.append(len(epochs))
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return train(*args)  # type: ignore[arg-type]

    with simulated(1, gradients=True):
        whole = pruned(tmp_path / "whole", "cuda:0")
        monkeypatch.setattr(bnrecal.training.prune, "_train_epoch", stopped_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            pruned(tmp_path / "parts", "cuda:0")
        parts = pruned(tmp_path / "parts", "cuda:0")
    assert len(epochs) == 3
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
