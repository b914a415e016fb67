"""torchvision, timm and custom networks: what is taken, and how each way to be wrong is reported."""

import copy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.stand_ins import Blank
from torch import Tensor, nn
from torchvision import models

from bnrecal.config import ModelConfig
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.files import log_once
from bnrecal.models import load_model

FACTORIES = """
import warnings
from types import SimpleNamespace

import torch
from torch import nn
from torchvision.models import GoogLeNetOutputs, resnet18

class Net(nn.Module):
    def __init__(self, classes=1000, answer="logits"):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, classes)
        self.answer = answer

    def forward(self, images):
        logits = self.fc(self.features(images).mean((2, 3)))
        answers = {
            "logits": logits,
            "tuple": (logits, None),
            "mapping": {"loss": None, "logits": logits},
            "named": GoogLeNetOutputs(logits, None, None),
            "object": SimpleNamespace(logits=logits),
            "maps": logits[:, :, None, None],
            "text": "a cat",
        }
        return answers[self.answer]

class Nested:
    make = Net

def fails():
    return Net(depth=3)

def poisoned():
    network = Net()
    network.features[1].running_var[2] = float("nan")
    return network

def half():
    return Net().half().train()

def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is going
        return torch.jit.trace(Net(), torch.zeros(1, 3, 8, 8))

def wrapped():
    return nn.DataParallel(torch.compile(Net(), backend="eager"))

def greedy():
    network = Net()
    network.fc = nn.Linear(5, 1000)
    return network

not_callable = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of factories, as the current one; imports and sys.path are given back."""
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    (tmp_path / "broken_nets.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("my_nets", "broken_nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def _custom(factory: str | None, **options: Any) -> ModelConfig:
    return ModelConfig(name="mine", family="custom", factory=factory, **options)


@pytest.mark.usefixtures("here")
def test_a_file_beside_the_user_works() -> None:
    loaded = load_model(_custom("my_nets:Nested.make", kwargs={"classes": 7}), Blank("imagefolder", 7))
    assert (loaded.name, loaded.weights, loaded.label_offset) == ("mine", "my_nets:Nested.make", 0)
    assert len(loaded.weights_hash) == 64
    assert loaded.preprocessing == Preprocessing()


@pytest.mark.usefixtures("here")
def test_the_network_is_float32_and_in_eval_mode() -> None:
    network = load_model(_custom("my_nets:half"), Blank()).network
    assert not any(module.training for module in network.modules())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.usefixtures("here")
def test_what_changes_numbers_unseen_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    with caplog.at_level("INFO"):
        load_model(_custom("my_nets:half", std=[0.25, 0.5, 1]), Blank())
    assert "my_nets:half: the network has float16 weights and is computed in float32" in caplog.text
    usual = "shorter side 256 (bilinear), central 224 x 224, mean [0.485, 0.456, 0.406], std [0.25, 0.5, 1]"
    assert f"preprocessing of mine: {usual}" in caplog.text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("answer", ["tuple", "mapping", "named", "object"])
def test_logits_are_found_in_what_a_network_returns(answer: str) -> None:
    images = torch.rand(2, 3, 8, 8)
    plain = load_model(_custom("my_nets:Net"), Blank()).network
    network = load_model(_custom("my_nets:Net", kwargs={"answer": answer}), Blank()).network
    for own in (network, copy.deepcopy(network)):
        assert torch.equal(own(images), plain(images))


@pytest.mark.usefixtures("here")
def test_a_compiled_and_wrapped_network_is_the_one_inside() -> None:
    plain = load_model(_custom("my_nets:Net"), Blank())
    assert load_model(_custom("my_nets:wrapped"), Blank()).weights_hash == plain.weights_hash


@pytest.mark.usefixtures("here")
def test_random_weights_follow_the_seed_and_leave_the_global_one() -> None:
    state = torch.get_rng_state()
    hashes = [load_model(_custom("my_nets:Net"), Blank(), seed=seed).weights_hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("here")
def test_1001_classes_on_imagenet_have_the_background_first() -> None:
    assert load_model(_custom("my_nets:Net", kwargs={"classes": 1001}), Blank()).label_offset == 1


@pytest.mark.usefixtures("here")
def test_preprocessing_is_as_set() -> None:
    config = _custom("my_nets:Net", mean=[0.5] * 3, std=[0.25] * 3, crop=192, interpolation="bicubic")
    expected = Preprocessing(219, 192, (0.5,) * 3, (0.25,) * 3, "bicubic")
    assert load_model(config, Blank()).preprocessing == expected
    assert load_model(replace(config, resize=200), Blank()).preprocessing == replace(expected, resize=200)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_of_every_wrapping(prefix: str, wrapped: bool, here: Path) -> None:
    trained = load_model(_custom("my_nets:Net"), Blank(), seed=5)
    state: dict[str, Any] = {prefix + key: tensor for key, tensor in trained.network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 90} if wrapped else state, here / "w.pth")
    loaded = load_model(_custom("my_nets:Net", checkpoint="w.pth"), Blank())
    assert loaded.weights_hash == trained.weights_hash
    assert loaded.weights == "w.pth"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_custom(None), "needs model.factory=package.module:callable"),
        (_custom("my_nets"), "write package.module:callable"),
        (_custom("no_such_module:f"), "no module no_such_module here (/"),
        (_custom("torch.no_such.module:f"), "no module torch.no_such here"),
        (_custom("broken_nets:f"), "importing broken_nets failed: ModuleNotFoundError: No module named"),
        (_custom("my_nets:Nope"), "my_nets has no callable Nope"),
        (_custom("my_nets:not_callable"), "my_nets has no callable not_callable"),
        (_custom("my_nets:fails"), "my_nets.py, line "),
        (_custom("my_nets:Net", kwargs={"depth": 3}), "unexpected keyword argument 'depth'"),
        (_custom("builtins:dict"), "returned dict, not an nn.Module"),
        (_custom("my_nets:scripted"), "is a program of TorchScript: give the nn.Module that it was made from"),
        (_custom("my_nets:poisoned"), "NaN or infinity in features.1.running_var"),
        (_custom("my_nets:greedy"), "mine cannot classify an image of (1, 3, 224, 224): "),
        (
            _custom("my_nets:Net", kwargs={"answer": "text"}),
            "must return logits (images, classes) in eval mode, not str",
        ),
        (_custom("my_nets:Net", kwargs={"answer": "maps"}), "not shape (1, 1000, 1, 1)"),
        (_custom("my_nets:Net", kwargs={"classes": 10}), "mine tells 10 classes apart, data=imagenet has 1000"),
        (_custom("my_nets:Net", checkpoint="none.pth"), "none.pth"),
    ],
)
def test_each_way_to_be_wrong_is_one_line(config: ModelConfig, message: str) -> None:
    with pytest.raises(BnrecalError) as caught:
        load_model(config, Blank())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_1001_classes_elsewhere_are_a_mismatch() -> None:
    config = _custom("torchvision.models:resnet18", kwargs={"num_classes": 8})
    with pytest.raises(BnrecalError, match="tells 8 classes apart, data=imagefolder has 7"):
        load_model(config, Blank("imagefolder", 7))


# torchvision by name


def _torchvision(name: str, **options: Any) -> ModelConfig:
    return ModelConfig(name=name, family="torchvision", **options)


def test_any_torchvision_network_by_name(tmp_path: Path) -> None:
    torch.save(models.squeezenet1_1(num_classes=7).state_dict(), tmp_path / "w.pth")
    config = _torchvision("squeezenet1_1", checkpoint=str(tmp_path / "w.pth"))
    assert load_model(config, Blank("imagefolder", 7)).preprocessing == Preprocessing()


def test_a_networks_own_transform_is_kept(tmp_path: Path) -> None:
    network = models.mnasnet0_5(num_classes=7)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    config = _torchvision("mnasnet0_5", checkpoint=str(tmp_path / "w.pth"), crop=64)
    assert load_model(config, Blank("imagefolder", 7)).preprocessing == Preprocessing(resize=73, crop=64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_torchvision("resnet19"), "no classification network of torchvision"),
        (_torchvision("resnet18", kwargs={"weights": "V9"}), "resnet18 has no weights V9: choose from IMAGENET1K_V1"),
        (_torchvision("vit_h_14"), "publishes no IMAGENET1K_V1 of vit_h_14"),
    ],
)
def test_unknown_torchvision_names_are_reported(config: ModelConfig, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        load_model(config, Blank())


def test_an_unknown_argument_is_reported(tmp_path: Path) -> None:
    torch.save(models.resnet18(num_classes=7).state_dict(), tmp_path / "w.pth")
    config = _torchvision("resnet18", checkpoint=str(tmp_path / "w.pth"), kwargs={"depth": 3})
    with pytest.raises(BnrecalError, match=r"cannot build resnet18 with model\.kwargs=.*depth"):
        load_model(config, Blank("imagefolder", 7))


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_loses_its_auxiliary_classifiers_and_takes_the_normalisation_back(
    auxiliary: bool, tmp_path: Path
) -> None:
    theirs = models.googlenet(weights=None, aux_logits=auxiliary, init_weights=False, num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    config = _torchvision("googlenet", checkpoint=str(tmp_path / "w.pth"))
    ours = load_model(config, Blank("imagefolder", 5)).network
    assert isinstance(ours, models.GoogLeNet)
    assert ours.transform_input
    assert (ours.aux_logits, ours.aux1, ours.aux2) == (False, None, None)
    assert not any(key.startswith("aux") for key in ours.state_dict())
    plain = load_model(replace(config, kwargs={"transform_input": False}), Blank("imagefolder", 5)).network
    assert isinstance(plain, models.GoogLeNet)
    assert not plain.transform_input


# timm, without timm


class _Timm(ModuleType):
    """As much of timm as is used."""

    __version__ = "1.0"

    def __init__(self) -> None:
        super().__init__("timm")
        found = {
            "input_size": (3, 240, 240),
            "crop_pct": 0.9,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.2, 0.2, 0.2),
            "interpolation": "bicubic",
        }
        self.data = SimpleNamespace(resolve_model_data_config=lambda _: found)

    def is_model(self, name: str) -> bool:
        return name == "tiny"

    def create_model(self, name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        if pretrained:
            raise OSError(f"cannot reach the hub for {name}\nsecond line")
        network: nn.Module = models.squeezenet1_1(num_classes=num_classes)
        return network


@pytest.fixture
def _timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", _Timm())


@pytest.mark.usefixtures("_timm")
def test_a_timm_network_with_its_own_preprocessing(tmp_path: Path) -> None:
    state: dict[str, Tensor] = models.squeezenet1_1(num_classes=7).state_dict()
    torch.save(state, tmp_path / "w.pth")
    config = ModelConfig(name="tiny", family="timm", checkpoint=str(tmp_path / "w.pth"))
    loaded = load_model(config, Blank("imagefolder", 7))
    assert loaded.preprocessing == Preprocessing(266, 240, (0.5,) * 3, (0.2,) * 3, "bicubic")


@pytest.mark.usefixtures("_timm")
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tiny", Blank(), r"timm cannot make tiny \(cannot reach the hub for tiny\)"),
        ("tiny", Blank("imagefolder", 7), r"give model\.checkpoint=PATH"),
        ("nope", Blank(), r"model\.name=nope: no network of timm 1\.0"),
    ],
)
def test_what_timm_does_not_have_is_reported(name: str, data: Blank, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        load_model(ModelConfig(name=name, family="timm"), data)


def test_a_missing_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BnrecalError, match=r"pip install 'bnrecal\[timm\]'"):
        load_model(ModelConfig(name="resnet18", family="timm"), Blank())
