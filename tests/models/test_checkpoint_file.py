"""Checkpoints as training scripts write them: the same weights by every way, or one line that says why not."""

import argparse
import copy
import logging
import os
import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bnrecal.config import Config, DataConfig, ModelConfig, complete
from bnrecal.device import tf32
from bnrecal.errors import BnrecalError
from bnrecal.experiment.identity import content_key
from bnrecal.experiment.setup import load
from bnrecal.files import log_once
from bnrecal.models.checkpoint_file import read_state
from bnrecal.models.mini import CHECKPOINT_FOLDER, CHECKPOINTS
from bnrecal.models.weights import install

NETWORK = "mobilenet_v1"
SHIPPED = CHECKPOINT_FOLDER / CHECKPOINTS[NETWORK].file
State = dict[str, Any]


class MyArgs:
    """An object of a script of one's own."""


@cache
def network() -> nn.Module:
    config = complete(Config(ModelConfig(NETWORK), DataConfig("glyphs", val_images=40)))
    return load(config).model.network


def weights() -> State:
    return dict(torch.load(SHIPPED, weights_only=True))


def training(state: Any) -> State:
    """An optimizer after one step, and a schedule, as scripts keep them."""
    own = copy.deepcopy(network())
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    own(torch.zeros(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[30, 60])
    return {"optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 89, **state}


def of_torchvision(path: Path) -> None:
    """references/classification/train.py: the network, bare, under `model`; the arguments as a Namespace."""
    args = argparse.Namespace(
        model=NETWORK,
        lr=0.5,
        workers=16,
        gpu=0,
        output_dir=Path("."),
        lr_warmup_method="linear",
        norm_weight_decay=None,
    )
    scaler = torch.amp.GradScaler("cpu").state_dict()
    torch.save(training({"model": weights(), "args": args, "scaler": scaler}), path)


def of_torchvision_average(path: Path) -> None:
    """The same script's `model_ema`: an AveragedModel with its counter."""
    averaged = torch.optim.swa_utils.AveragedModel(network(), use_buffers=True)
    averaged.load_state_dict({"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in weights().items()}})
    torch.save({"model_ema": averaged.state_dict(), "args": argparse.Namespace(lr=0.5)}, path)


def of_timm(path: Path) -> None:
    """timm's CheckpointSaver."""
    args = argparse.Namespace(model=NETWORK, mean=None, aa="rand-m9-mstd0.5-inc1", drop_path=0.1)
    content = {"arch": NETWORK, "state_dict": weights(), "version": 2, "args": args, "metric": np.float64(71.68)}
    torch.save(training(content), path)


def of_examples(path: Path) -> None:
    """pytorch/examples imagenet/main.py: DataParallel, and the best accuracy as a tensor."""
    state = nn.DataParallel(copy.deepcopy(network())).state_dict()  # moves what it is given to a GPU, if there is one
    torch.save(training({"arch": NETWORK, "state_dict": state, "best_acc1": torch.tensor(71.68)}), path)


def of_a_compiled_network(path: Path) -> None:
    torch.save({"net": {f"module._orig_mod.model.{name}": tensor for name, tensor in weights().items()}}, path)


def of_thop(path: Path) -> None:
    """thop's profile() leaves counters in every module."""
    counters = {"total_ops": torch.zeros(1, dtype=torch.float64), "model.0.total_params": torch.zeros(1)}
    torch.save({"model_state_dict": {**weights(), **counters}}, path)


def of_old_pytorch(path: Path) -> None:
    """The file format before 1.6."""
    torch.save(weights(), path, _use_new_zipfile_serialization=False)


def of_safetensors(path: Path) -> None:
    save_file(weights(), path)


def in_double(path: Path) -> None:
    torch.save(
        {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in weights().items()}, path
    )


def key_of(checkpoint: Path | None, **model: Any) -> str:
    own = ModelConfig(NETWORK, checkpoint=None if checkpoint is None else str(checkpoint), **model)
    experiment = load(complete(Config(own, DataConfig("glyphs", val_images=40))))
    with torch.no_grad():
        images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.equal(experiment.model.network(images), network()(images))
    return content_key(experiment.identity)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (of_torchvision, "checkpoint.pth"),
        (of_torchvision_average, "model_89.pth"),
        (of_timm, "model_best.pth.tar"),
        (of_examples, "checkpoint.pth.tar"),
        (of_a_compiled_network, "w.pt"),
        (of_thop, "w.pth"),
        (of_old_pytorch, "w.pth"),
        (of_safetensors, "model.safetensors"),
        (in_double, "w.pth"),
    ],
)
def test_the_same_weights_by_every_way_are_the_same_network(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    assert key_of(tmp_path / name) == key_of(None)


def test_of_several_weights_one_is_chosen_by_a_key_and_never_in_silence(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in weights().items()}
    path = tmp_path / "w.pth"
    torch.save({"state_dict": other, "state_dict_ema": weights(), "deep": {"er": weights()}}, path)
    with pytest.raises(BnrecalError, match=r"holds weights under state_dict, state_dict_ema: choose one, as in model"):
        read_state(path)
    assert torch.equal(read_state(path, key="state_dict")["fc.bias"], other["fc.bias"])
    assert key_of(path, checkpoint_key="state_dict_ema") == key_of(None)
    assert key_of(path, checkpoint_key="deep.er") == key_of(None)
    with pytest.raises(
        BnrecalError, match=r"model\.checkpoint_key=epoch: .* no weights there, but under state_dict, st"
    ):
        read_state(path, key="epoch")
    with pytest.raises(BnrecalError, match=r"model\.checkpoint_key=net needs model\.checkpoint=PATH"):
        load(complete(Config(ModelConfig("x", "custom", factory="helpers.nets:glyph_net", checkpoint_key="net"))))


def test_weights_under_a_key_of_ones_own_are_named(tmp_path: Path) -> None:
    torch.save({"generator": weights(), "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(BnrecalError, match=r"but under generator: give model\.checkpoint_key=generator"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_same_numbers_in_float32_with_a_line(
    dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log_once.cache_clear()
    narrow = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights().items()}
    torch.save(narrow, tmp_path / "w.pth")
    torch.save({name: t.float() if t.is_floating_point() else t for name, t in narrow.items()}, tmp_path / "wide.pth")
    config = complete(Config(ModelConfig(NETWORK, checkpoint=str(tmp_path / "w.pth")), DataConfig("glyphs")))
    with caplog.at_level(logging.INFO):
        experiment = load(config)
    wide = load(complete(Config(ModelConfig(NETWORK, checkpoint=str(tmp_path / "wide.pth")), DataConfig("glyphs"))))
    assert experiment.model.weights_hash == wide.model.weights_hash
    assert content_key(experiment.identity) == content_key(wide.identity)
    assert f"{str(dtype).removeprefix('torch.')} weights are taken as float32" in caplog.text


def program(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is going, its files stay
        traced = torch.jit.trace(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)


def exported(path: Path) -> None:
    with tf32(True):  # torch.export reads the old switch, which raises where a test before has set the new one
        torch.export.save(torch.export.export(nn.Conv2d(3, 4, 1), (torch.zeros(1, 3, 8, 8),)), path)


def old_pickle(path: Path) -> None:
    torch.save({"state_dict": weights(), "args": MyArgs()}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (lambda path: torch.save(network(), path), "w.pth", "holds a whole network (bnrecal.models.mlperf.Mlp"),
        (lambda path: torch.save({"model": network()}, path), "w.pth", "holds a whole network (bnrecal.models."),
        (lambda path: torch.save({"state_dict": weights(), "args": MyArgs()}, path), "w.pth", "MyArgs, which may run"),
        (old_pickle, "w.pth", "MyArgs, which may run code as it is read: save its weights alone"),
        (
            lambda path: path.write_bytes(pickle.dumps({"w": print})),
            "w.pth",
            "w.pth is not a checkpoint of plain tensors: save",
        ),
        (
            lambda path: torch.save({"a.weight": torch.zeros(3, device="meta")}, path),
            "w.pth",
            "a.weight has a shape but",
        ),
        (
            lambda path: torch.save({"a.weight": torch.eye(3).to_sparse()}, path),
            "w.pth",
            "a.weight is sparse (torch.spa",
        ),
        (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch"), "w.onnx", "is an ONNX graph, not a state_dict"),
        (program, "w.pt", "is a program of TorchScript, not a state_dict"),
        (exported, "w.pt2", "is a program of torch.export, not a state_dict"),
        (exported, "w.pth", "is a program of torch.export, not a state_dict"),
        (lambda path: path.mkdir(), "w.pth", "is a folder: name the file with the weights"),
        (
            lambda path: torch.save([1, 2], path),
            "w.pth",
            "holds no state_dict (a mapping of names to tensors): it is list",
        ),
        (lambda path: torch.save({"epoch": 3}, path), "w.pth", "it has epoch (epoch is int)"),
        (lambda path: path.write_bytes(b"\0" * 20), "w.safetensors", "truncated or no safetensors"),
    ],
)
def test_what_holds_no_weights_is_one_line(
    write: Callable[[Path], object], name: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(BnrecalError) as caught:
        read_state(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "harm"

    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(target),)

    torch.save({"state_dict": weights(), "args": argparse.Namespace(x=Harm())}, tmp_path / "w.pth")
    with pytest.raises(BnrecalError, match=r"holds an object of posix\.mkdir, which may run code"):
        read_state(tmp_path / "w.pth")
    assert not target.exists()


def test_a_network_whose_own_names_bear_a_prefix_gets_it_back(tmp_path: Path) -> None:
    wrapper = nn.ModuleDict({"model": nn.Conv2d(3, 4, 1)})
    for names in ("", "model.", "module.model.model."):
        own = {names + name: torch.full_like(tensor, 2) for name, tensor in wrapper["model"].state_dict().items()}
        torch.save(own, tmp_path / "w.pth")
        target = copy.deepcopy(wrapper)
        install(target, read_state(tmp_path / "w.pth"), "w.pth")
        assert all(bool((tensor == 2).all()) for tensor in target.state_dict().values())
