"""The mini networks: the topologies of the full ones, and checkpoints that are what they claim."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from helpers.stand_ins import Blank
from torch import nn
from torchvision import models

from bnrecal.config import ModelConfig
from bnrecal.data.glyphs.draw import CLASSES
from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING, GlyphSource
from bnrecal.errors import BnrecalError
from bnrecal.models import load_model, mini
from bnrecal.models.base import LoadedModel
from bnrecal.models.mlperf import MlperfMobileNetV1, MlperfResNet50
from bnrecal.models.weights import file_hash, state_dict_hash


def full_network(name: str) -> nn.Module:
    """The network of the paper at full width, without memory for its weights."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        makers = {
            "resnet18": models.resnet18,
            "resnet50": models.resnet50,
            "densenet121": models.densenet121,
            "googlenet": lambda: models.googlenet(aux_logits=False, init_weights=False),
            "resnet50_mlperf": MlperfResNet50,
            "mobilenet_v1": MlperfMobileNetV1,
        }
        network = makers[name]()
    assert isinstance(network, nn.Module)
    return network


def convs(network: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", sorted(mini.ARCHITECTURES))
def test_topology_is_that_of_the_full_network(name: str) -> None:
    small = mini.build_mini(name)
    full = full_network(name)
    assert list(small.state_dict()) == list(full.state_dict())
    for (where, ours), (_, theirs) in zip(convs(small), convs(full), strict=True):
        depthwise = ours.groups > 1
        assert ours.kernel_size == theirs.kernel_size, where
        assert ours.padding == theirs.padding, where
        assert depthwise == (theirs.groups > 1), where
    assert [conv.stride for _, conv in convs(small)[1:]] == [conv.stride for _, conv in convs(full)[1:]]
    assert convs(small)[0][1].stride == (1, 1)


@pytest.mark.parametrize("name", sorted(mini.ARCHITECTURES))
def test_channels_divide_by_four_threads(name: str) -> None:
    # Not a need of the arithmetic, but the fast path of the expanded convolution takes such layers.
    for where, conv in convs(mini.build_mini(name))[1:]:
        assert conv.in_channels % 4 == 0, where


def load(name: str) -> LoadedModel:
    return load_model(ModelConfig(name=name), Blank("glyphs", CLASSES))


@pytest.mark.parametrize("name", mini.MINI_NAMES)
def test_shipped_checkpoint_loads_and_classifies(name: str) -> None:
    loaded = load(name)
    assert loaded.name == name
    assert loaded.preprocessing == GLYPH_PREPROCESSING
    assert loaded.label_offset == 0
    assert loaded.weights_hash == state_dict_hash(loaded.network)
    assert not loaded.network.training
    with torch.no_grad():
        assert loaded.network(torch.zeros(2, 3, 32, 32)).shape == (2, CLASSES)


@pytest.mark.parametrize("name", mini.MINI_NAMES)
def test_shipped_checkpoint_knows_glyphs(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path_factory.getbasetemp() / "glyphs"))
    source = GlyphSource(val_images=200, held_out="dev")
    data = source.dataset("val", range(200), GLYPH_PREPROCESSING)
    images, labels = zip(*(data[index] for index in range(200)), strict=True)
    with torch.no_grad():
        right = load(name).network(torch.stack(images)).argmax(1) == torch.tensor(labels)
    assert right.float().mean() > 0.6


def test_checkpoints_are_named_once_and_small() -> None:
    files = [mini.CHECKPOINT_FOLDER / checkpoint.file for checkpoint in mini.CHECKPOINTS.values()]
    assert len(set(files)) == len(files)
    assert set(mini.CHECKPOINT_FOLDER.glob("*.pth")) == set(files)
    assert sum(file.stat().st_size for file in files) < 30e6
    assert all(checkpoint.architecture in mini.ARCHITECTURES for checkpoint in mini.CHECKPOINTS.values())


def test_a_changed_byte_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = mini.CHECKPOINTS["resnet18"]
    copy = Path(shutil.copy(mini.CHECKPOINT_FOLDER / checkpoint.file, tmp_path))
    monkeypatch.setattr(mini, "CHECKPOINT_FOLDER", tmp_path)
    assert load("resnet18").weights_hash
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    assert file_hash(copy) != checkpoint.sha256
    with pytest.raises(BnrecalError, match="damaged or another file"):
        load("resnet18")
    copy.unlink()
    with pytest.raises(BnrecalError, match="no checkpoint at"):
        load("resnet18")


def test_unknown_names_are_reported_the_known_ones() -> None:
    with pytest.raises(BnrecalError, match=r"no model 'vgg16' for data=glyphs: choose from .*resnet18"):
        mini.build_mini("vgg16")
