from pathlib import Path

import pytest
import torch
from helpers.small import TINY
from torch import Tensor

import bnrecal.experiment.setup
import bnrecal.training.prune
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import PruneConfig
from bnrecal.commands.prune import make_pruned
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.errors import BnrecalError
from bnrecal.models.checkpoint_file import read_state
from bnrecal.quantization.qparams import quantize_weight
from bnrecal.training.prune import levels, magnitude_mask, sparsity_table

SMALL = [
    *TINY,
    "prune.epochs=2",
    "prune.step=0.2",
    "prune.batch_size=32",
    "prune.learning_rate=0.01",
]
PRUNED = ("conv2", "depthwise", "dilated")


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))


def settings(out: Path, *overrides: str) -> PruneConfig:
    return read_config(PruneConfig, [*SMALL, f"out={out}", *overrides])


def pruned(out: Path, *overrides: str) -> dict[str, Tensor]:
    return read_state(make_pruned(settings(out, *overrides), []))


def test_sparsity_is_exact_in_every_layer_and_survives_quantization(tmp_path: Path) -> None:
    state = pruned(tmp_path)
    for name in PRUNED:
        weight = state[f"{name}.weight"]
        zero = weight == 0
        assert int(zero.sum()) == round(0.4 * weight.numel())
        quantized, _ = quantize_weight(weight)
        assert not quantized[zero].any()
    assert not (state["stem.weight"] == 0).any()
    assert not (state["fc.weight"] == 0).any()


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pruned(tmp_path / "whole")
    train, epochs = bnrecal.training.prune._train_epoch, 0

    def stopped_in_the_third(*args: object) -> float:
        nonlocal epochs
        epochs += 1
        loss = train(*args)  # type: ignore[arg-type]
        if epochs == 3:  # trained on, but not yet kept
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(bnrecal.training.prune, "_train_epoch", stopped_in_the_third)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pruned(tmp_path / "stopped")
        epochs = 2  # the next time stop in the first epoch, which must then be done once more
    monkeypatch.setattr(bnrecal.training.prune, "_train_epoch", train)
    again = pruned(tmp_path / "stopped")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not list((tmp_path / "stopped").glob("*.progress.pt"))


def test_a_finished_checkpoint_is_taken_and_another_recipe_is_not(tmp_path: Path) -> None:
    first = make_pruned(settings(tmp_path, "prune.epochs=0"), [])
    written = first.stat().st_mtime_ns
    assert make_pruned(settings(tmp_path, "prune.epochs=0"), []) == first
    assert first.stat().st_mtime_ns == written
    assert make_pruned(settings(tmp_path, "prune.epochs=0", "prune.sparsity=0.5"), []) != first


def test_levels_and_masks() -> None:
    assert levels(0.4, 0.1) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert levels(0.25, 0.1) == pytest.approx([0.1, 0.2, 0.25])
    assert levels(0.1, 0.3) == [0.1]
    weight = torch.tensor([[3.0, -1.0], [0.5, -0.5], [2.0, -4.0]])
    assert magnitude_mask(weight, 0.5).tolist() == [[True, False], [False, False], [True, True]]
    assert magnitude_mask(weight, 1 / 6).sum() == 5  # of the two equal ones, one


def test_a_pruned_weight_that_came_back_is_noticed() -> None:
    conv = torch.nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
    with pytest.raises(RuntimeError, match="0: a pruned weight is not zero"):
        sparsity_table(torch.nn.Sequential(conv), {"0": magnitude_mask(conv.weight, 0.5)})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prune.sparsity=1.0", "prune.sparsity=1.0: choose a share above 0 and below 1"),
        ("prune.step=0", "prune.step=0.0"),
        ("prune.learning_rate=0", "prune.learning_rate=0.0"),
        ("prune.epochs=-1", "prune.epochs=-1"),
    ],
)
def test_values_out_of_range_are_reported(override: str, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        read_config(PruneConfig, [*SMALL, override])


def test_a_batch_larger_than_the_training_set_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BnrecalError, match=r"prune\.batch_size=101 is more than the 100"):
        pruned(tmp_path, "prune.batch_size=101")
