"""The networks of Table 1: the real architectures take the real checkpoints, and weights go where they should."""

from pathlib import Path

import pytest
import torch
from helpers.layer_list import mobilenet_v1, resnet50_mlperf
from helpers.stand_ins import Blank
from torch import Tensor, nn
from torchvision import models

from bnrecal.config import ModelConfig
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.models import load_model
from bnrecal.models.paper_networks import MLPERF, TORCHVISION

LAYERS = {"resnet50_mlperf": resnet50_mlperf, "mobilenet_v1": mobilenet_v1}


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("requests.get", offline)


def _published(name: str) -> nn.Module:
    """The network that torchvision saved its file from, before it dropped the auxiliary classifiers."""
    extra = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    network: nn.Module = models.get_model(name, weights=None, **extra)
    return network


def _randomized(network: nn.Module) -> nn.Module:
    """BatchNorm statistics away from their defaults, so that a forgotten one shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network.eval()


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_torchvision_row_loads_torchvisions_own_state(name: str, tmp_path: Path) -> None:
    theirs = _randomized(_published(name))
    state = theirs.state_dict()
    if name == "densenet121":  # the published file has the dots of an older torchvision
        state = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for key, v in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "w.pth")
    loaded = load_model(ModelConfig(name=name, checkpoint=str(tmp_path / "w.pth")), Blank())
    assert not loaded.network.training
    assert (loaded.label_offset, loaded.preprocessing) == (0, Preprocessing())
    assert not any("aux" in key for key in loaded.network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    if name == "googlenet":
        theirs.transform_input = True  # type: ignore[assignment]
    with torch.inference_mode():
        assert torch.equal(loaded.network(images), theirs(images))


@pytest.mark.parametrize("name", list(MLPERF))
def test_an_mlperf_row_has_the_published_layers(name: str) -> None:
    found = {key: tuple(tensor.shape) for key, tensor in MLPERF[name].build().state_dict().items()}
    assert found == LAYERS[name]()


@pytest.mark.parametrize("name", list(MLPERF))
def test_an_mlperf_row_loads_a_published_file(name: str, tmp_path: Path) -> None:
    state: dict[str, Tensor] = {key: torch.zeros(shape) for key, shape in LAYERS[name]().items()}
    wrapped = {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}
    torch.save(wrapped, tmp_path / "w.pth")
    loaded = load_model(ModelConfig(name=name, checkpoint=str(tmp_path / "w.pth")), Blank())
    assert loaded.label_offset == 1
    assert loaded.preprocessing == MLPERF[name].preprocessing


def test_the_mlperf_files_are_the_published_ones() -> None:
    for name, file in (("resnet50_mlperf", "resnet50_mlperf.pth"), ("mobilenet_v1", "mobilenet-v1_mlperf.pth")):
        assert MLPERF[name].published.url.endswith(f"gilshm/mlperf-pytorch/raw/master/checkpoints/{file}")
        assert len(MLPERF[name].published.digest) == 40


@pytest.mark.parametrize("name", [*TORCHVISION, *MLPERF])
def test_offline_every_row_says_which_file_to_put_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(BnrecalError, match=f"put it at {tmp_path}/torch/hub/checkpoints/.*pth or give") as caught:
        load_model(ModelConfig(name=name), Blank())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("resnet18", Blank("imagefolder", 7), "data=imagefolder has classes of its own: give model.checkpoint=PATH"),
        ("mobilenet_v1", Blank("imagefolder", 7), "use model=custom"),
        ("resnet18_p40", Blank(), "nobody publishes resnet18_p40"),
        ("resnet19", Blank(), "choose resnet18, resnet50, googlenet, densenet121, resnet50_mlperf, mobilenet_v1"),
    ],
)
def test_what_cannot_be_had_is_reported(name: str, data: Blank, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        load_model(ModelConfig(name=name), data)


def test_a_pruned_checkpoint_takes_the_dense_architecture(tmp_path: Path) -> None:
    torch.save(models.resnet18(num_classes=7).state_dict(), tmp_path / "w.pth")
    config = ModelConfig(name="resnet18_p40", checkpoint=str(tmp_path / "w.pth"))
    assert load_model(config, Blank("imagefolder", 7)).name == "resnet18_p40"


def test_on_glyphs_the_mini_network_is_meant(tmp_path: Path) -> None:
    from bnrecal.models.mini import build_mini

    torch.save(build_mini("mobilenet_v1").state_dict(), tmp_path / "w.pth")
    config = ModelConfig(name="mobilenet_v1", checkpoint=str(tmp_path / "w.pth"))
    loaded = load_model(config, Blank("glyphs", build_mini("mobilenet_v1").fc.out_features))  # type: ignore[union-attr, arg-type]
    assert loaded.preprocessing.crop is None
    assert loaded.label_offset == 0
