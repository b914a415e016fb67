"""`import bnrecal`: the six calls on a torchvision network and on a shipped one, and how they say no."""

import copy
import pickle
import subprocess
import sys
from collections import UserDict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchvision
from helpers.nets import images, no_batchnorm, tiny
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bnrecal
from bnrecal.config import DataConfig, ModelConfig
from bnrecal.data import build_source
from bnrecal.experiment.run import float_state_dict
from bnrecal.files import warn_once
from bnrecal.models import load_model
from bnrecal.nbsmt import reference
from bnrecal.quantization.convert import threaded_layers

SPEC = bnrecal.SmtSpec(threads=4)


def labelled(model: nn.Module, count: int = 24, size: int = 12) -> DataLoader[tuple[Tensor, ...]]:
    """Random images with what the float network says of them for labels."""
    x = images(count, size=size)
    with torch.no_grad():
        labels = model(x).argmax(1)
    return DataLoader(TensorDataset(x, labels), batch_size=8)


@pytest.fixture
def model() -> nn.Module:
    return tiny()


def torchvision_network() -> tuple[nn.Module, DataLoader[tuple[Tensor, ...]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    return network, labelled(network, size=32)


def shipped_network() -> tuple[nn.Module, DataLoader[tuple[Tensor, ...]]]:
    source = build_source(DataConfig(name="glyphs"))
    loaded = load_model(ModelConfig(name="resnet18"), source)
    dataset = source.dataset("val", range(60), loaded.preprocessing)
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(dataset, batch_size=20)  # type: ignore[arg-type]
    return loaded.network, loader


@pytest.mark.parametrize("make", [torchvision_network, shipped_network])
def test_the_calls_as_documented(make: object) -> None:
    assert callable(make)
    network, batches = make()
    q = bnrecal.quantize(network, batches, bnrecal.SmtSpec(threads=4))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    assert bnrecal.recalibrate_(q, batches, method="ema") is q
    scores = bnrecal.evaluate({"float32": network, "4T": q}, batches)
    assert scores["float32"].top1 > 70  # of the shipped one; the other's labels are its own
    assert 0 < scores["4T"].top1 <= 100
    gain = scores["4T"].gain_over(scores["float32"])
    assert gain.points == pytest.approx(scores["4T"].top1 - scores["float32"].top1)
    assert 0 <= gain.p <= 1
    table = bnrecal.layer_table(q, [next(iter(batches))])
    assert table["name"].tolist() == list(threaded_layers(q))
    assert table["collisions"].between(0, 1).all()
    assert (table["relative_mse"] > 0).all()
    assert (table["range"] > 0).all()
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name])
    make()[0].load_state_dict(q.state_dict())


def test_quantize_is_what_an_experiment_does(model: nn.Module) -> None:
    x = images(16)
    q = bnrecal.quantize(model, [x], SPEC)
    assert {name: layer.spec.threads for name, layer in threaded_layers(q).items()} == {
        "conv2": 4,
        "depthwise": 1,
        "dilated": 4,
    }
    with torch.no_grad():
        assert not torch.equal(q(x), model(x))
        assert (q(x) - model(x)).norm() < 0.5 * model(x).norm()


def test_skip_and_layers_choose_by_name_and_glob(model: nn.Module) -> None:
    q = bnrecal.quantize(model, [images(8)], SPEC, skip=["depth*"], layers={"dil*": 2})
    assert {name: layer.spec.threads for name, layer in threaded_layers(q).items()} == {"conv2": 4, "dilated": 2}


class Output(UserDict[str, Tensor]):
    """As Hugging Face's networks and image processors return tensors."""


class Wrapper(nn.Module):
    """Returns its logits in an object."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, pixel_values: Tensor) -> Output:
        return Output(loss=torch.zeros(()), logits=self.inside(pixel_values))


def test_batches_and_networks_of_every_form_give_the_same_score(model: nn.Module) -> None:
    pairs = list(labelled(model))
    expected = bnrecal.evaluate({"q": bnrecal.quantize(model, pairs, SPEC)}, pairs)["q"].outcome.top1.tolist()
    mappings = [Output(pixel_values=x, labels=y) for x, y in pairs]
    lists = [(x, y.tolist()) for x, y in pairs]
    arrays = [[x, y.numpy().astype("uint8"), np.arange(len(x))] for x, y in pairs]
    wrapped = torch.compile(Wrapper(model), backend="eager")
    assert isinstance(wrapped, nn.Module)
    q = bnrecal.quantize(wrapped, mappings, SPEC)
    assert list(threaded_layers(q)) == ["inside.conv2", "inside.depthwise", "inside.dilated"]
    for batches in (mappings, lists, arrays):
        outcome = bnrecal.evaluate({"q": q}, batches)["q"].outcome
        assert outcome.top1.tolist() == expected
    assert bnrecal.recalibrate_(wrapped, mappings) is wrapped


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, -1]), r"a label is -1, which is no class \(test splits have -1"),
        (torch.zeros(2, 5), r"labels are float32 \(2, 5\) for 2 images: give one class number an image, int64 \(2,\)"),
        ([0, 1, 2], r"labels are int64 \(3,\) for 2 images"),
        (["cat", "dog"], "labels are list: give one class number an image"),
        (None, "a batch has no labels"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels: object, message: str, model: nn.Module) -> None:
    with pytest.raises(bnrecal.BnrecalError, match=message):
        bnrecal.evaluate({"a": model}, [{"pixel_values": images(2), "labels": labels}])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_in_another_precision_is_one_line(dtype: torch.dtype, model: nn.Module) -> None:
    other = model.to(dtype)
    message = f"the model has {str(dtype).removeprefix('torch.')} weights: give it in float32"
    for call in (
        lambda: bnrecal.quantize(other, [images(8)], SPEC),
        lambda: bnrecal.recalibrate_(other, [images(8)]),
        lambda: bnrecal.evaluate({"a": other}, [(images(2), [0, 1])]),
    ):
        with pytest.raises(bnrecal.BnrecalError, match=message):
            call()


def test_a_convolution_that_no_figure_counts_is_named(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    bnrecal.quantize(network, [images(4)], SPEC, skip=["2"])
    assert "conv_transpose2d with the weight 2.weight stays float32 and outside the figures" in caplog.text


def test_layers_that_recalibration_does_not_reach_are_named_when_quantized(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    bnrecal.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 3)), [images(4)], SPEC)
    assert "BatchNorm 1 hold no running statistics and normalise with those of each batch" in caplog.text


def test_modes_and_parameters_are_the_originals(model: nn.Module) -> None:
    model.train()
    model.get_submodule("bn1").eval()
    modes = {name: module.training for name, module in model.named_modules()}
    q = bnrecal.quantize(model, [images(8)], SPEC)
    bnrecal.evaluate({"a": model}, [(images(4), torch.zeros(4, dtype=torch.int64))])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module.training for module in q.modules())
    assert [id(p) for p in q.parameters()] == [id(p) for p in model.parameters()]


def test_print_shows_how_each_convolution_runs(model: nn.Module) -> None:
    q = bnrecal.quantize(model, [images(8)], SPEC)
    lines = {line.split(":")[0].strip(" ()"): line for line in str(q).splitlines()}
    assert "8-bit, threads=4, policy=A, scale=" in lines["conv2"]
    assert "8-bit, threads=1, scale=" in lines["depthwise"]
    assert "8-bit" not in lines["stem"]
    assert "8-bit" not in str(model)
    assert "8-bit, threads=4" in str(pickle.loads(pickle.dumps(q)))
    assert "8-bit, threads=4" in str(copy.deepcopy(q))


def test_state_dict_loads_in_the_stock_architecture(model: nn.Module) -> None:
    q = bnrecal.recalibrate_(bnrecal.quantize(model, [images(8)], SPEC), [images(16, seed=1)])
    stock = tiny(seed=5)
    stock.load_state_dict(q.state_dict())
    for name, value in float_state_dict(model, q).items():
        assert torch.equal(stock.state_dict()[name], value)


def test_the_arithmetic() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, 8, 5, 5), generator=generator, dtype=torch.uint8)
    w = torch.randint(-128, 128, (4, 8, 3, 3), generator=generator).to(torch.int8)
    assert torch.equal(bnrecal.nbsmt_conv2d(x, w, threads=4).long(), reference.conv2d(x, w, threads=4).long())


def test_a_config_made_in_python_is_checked_and_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bnrecal.Config] = []
    monkeypatch.setattr("bnrecal.api.run_experiment", seen.append)
    given = bnrecal.Config(smt=bnrecal.SmtConfig(threads=2, layers={"conv1": 1}))
    bnrecal.run(given)
    assert (seen[0].model.name, seen[0].data.name, seen[0].smt.layers) == ("resnet18", "glyphs", {"conv1": 1})
    assert seen[0].model.kwargs == {}
    assert (given.model.name, given.data.name) == ("", "")  # the caller's own is left alone
    assert "???" not in repr(given)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (bnrecal.Config(smt=bnrecal.SmtConfig(threads=3)), "smt.threads=3: choose one of 1, 2, 4"),
        (bnrecal.Config(smt=bnrecal.SmtConfig(threads="many")), "smt.threads: Value 'many' of type 'str'"),  # type: ignore[arg-type]
        (bnrecal.Config(model=bnrecal.ModelConfig(family="timm")), "model.name is missing"),
    ],
)
def test_a_config_out_of_range_is_named(config: bnrecal.Config, message: str) -> None:
    with pytest.raises(bnrecal.BnrecalError, match=message):
        bnrecal.run(config)


def test_a_whole_experiment() -> None:
    config = bnrecal.Config(
        model=bnrecal.ModelConfig(family="custom", factory="helpers.nets:glyph_net"),
        data=bnrecal.DataConfig(name="glyphs", val_images=30, allow_chance=True),
        calibration=bnrecal.CalibrationConfig(images=16),
        recalibration=bnrecal.RecalibrationConfig(images=16, batch_size=8),
        recal=True,
    )
    result = bnrecal.run(config)
    assert (result.model, result.threads, result.images) == ("custom", 4, 30)
    assert result.layers is not None


def nothing() -> Iterator[Tensor]:
    yield from ()


def test_what_cannot_be_is_named(model: nn.Module) -> None:
    q = bnrecal.quantize(model, [images(8)], SPEC)
    with pytest.raises(bnrecal.BnrecalError, match="quantized already"):
        bnrecal.quantize(q, [images(8)], SPEC)
    with pytest.raises(bnrecal.BnrecalError, match="no batch of images"):
        bnrecal.quantize(model, nothing(), SPEC)
    with pytest.raises(bnrecal.BnrecalError, match=r"uint8 \(2, 3, 12, 12\): give float32"):
        bnrecal.quantize(model, [torch.zeros(2, 3, 12, 12, dtype=torch.uint8)], SPEC)
    with pytest.raises(bnrecal.BnrecalError, match="matches no quantized convolution"):
        bnrecal.quantize(model, [images(8)], SPEC, layers={"layer9": 2})
    with pytest.raises(bnrecal.BnrecalError, match="skip names layer9, which matches no quantized convolution: choose"):
        bnrecal.quantize(model, [images(8)], SPEC, skip=["conv2", "layer9"])
    with pytest.raises(
        bnrecal.BnrecalError, match="skip names stem, which matches only convolutions that stay float32"
    ):
        bnrecal.quantize(model, [images(8)], SPEC, skip=["stem"])
    with pytest.raises(bnrecal.BnrecalError, match=r"layers\[conv2\]=3: choose one of 1, 2, 4"):
        bnrecal.quantize(model, [images(8)], SPEC, layers={"conv2": 3})
    with pytest.raises(bnrecal.BnrecalError, match="act_range=most: choose one of"):
        bnrecal.quantize(model, [images(8)], SPEC, act_range="most")
    with pytest.raises(bnrecal.BnrecalError, match="no BatchNorm layer"):
        bnrecal.recalibrate_(no_batchnorm(), [images(8)])
    with pytest.raises(bnrecal.BnrecalError, match="momentum=0"):
        bnrecal.recalibrate_(q, [images(8)], momentum=0)
    with pytest.raises(bnrecal.BnrecalError, match="no quantized convolution"):
        bnrecal.layer_table(model, [images(8)])
    with pytest.raises(bnrecal.BnrecalError, match="no models"):
        bnrecal.evaluate({}, [])
    with pytest.raises(bnrecal.BnrecalError, match=r"evaluate got Tiny: give a mapping, as in \{'float32': model\}"):
        bnrecal.evaluate(model, [])  # type: ignore[arg-type]
    one, two = (bnrecal.evaluate({"a": model}, labelled(model, count)) for count in (8, 16))
    with pytest.raises(bnrecal.BnrecalError, match="16 and 8 images"):
        two["a"].gain_over(one["a"])


def test_importing_loads_nothing_heavy() -> None:
    script = "import sys, bnrecal; sys.exit(str([m for m in ('torch', 'numpy', 'omegaconf') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.stderr.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in bnrecal.__all__:
        assert getattr(bnrecal, name) is not None
        assert name in dir(bnrecal)
    with pytest.raises(AttributeError, match="'bnrecal' has no attribute 'quantise'"):
        _ = bnrecal.quantise
