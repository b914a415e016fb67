"""Fused evaluation: the logits of the unfused network to the last bit, and a network that stays as it was."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.nets import Aliased, images, negative_net, tiny
from helpers.scripts import script
from torch import Tensor, nn
from torchvision import models

from bnrecal.batchnorm.recalibrate import recalibrate_
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import evaluate
from bnrecal.models import mini
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization import fused
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy, threaded_layers
from bnrecal.quantization.fused import Ended, FusedNetwork, describe_fusion, fuse, fused_or_none
from bnrecal.quantization.intercept import ConvCall
from bnrecal.quantization.layer_plan import plan_threads
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(ending(CPU) is not Ending.TORCHS, reason="no fused end on this processor")


def threaded(network: nn.Module, threads: int, batch: Tensor) -> nn.Module:
    """A quantized copy, calibrated on these images; the network itself for 0 threads."""
    if threads == 0:
        return network
    plans = plan_threads(calibrate(network, [batch]), threads, {})
    return threaded_copy(network, quantize_layers(plans, SmtSpec(), "mean_max")).eval()


def with_statistics(network: nn.Module, batch: Tensor) -> nn.Module:
    """The network with running statistics of these images and random BatchNorm parameters, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.train()(batch)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) / 4)
    return network.eval().to(memory_format=torch.channels_last)


def full_network(name: str) -> nn.Module:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network: nn.Module = models.get_model(name, weights=None, **options)
    return network


BATCHNORMS = {"resnet18": 20, "resnet50": 53, "mobilenet_v2": 52, "densenet121": 121, "googlenet": 57}


@pytest.mark.parametrize("name", sorted(BATCHNORMS))
def test_networks_of_torchvision(name: str) -> None:
    batch = images(2, size=32).contiguous(memory_format=torch.channels_last)
    network = with_statistics(full_network(name), batch)
    for threads in (0, 1, 2, 4) if name in ("resnet18", "mobilenet_v2") else (0, 4):
        copy = threaded(network, threads, batch)
        with torch.no_grad():
            short = fuse(copy)
            assert short is not None
            assert torch.equal(short(batch), copy(batch)), threads
        assert sum(isinstance(module, Ended) for module in short.modules()) == BATCHNORMS[name]
        assert not any(isinstance(module, nn.ReLU | nn.ReLU6) for module in short.children())
    assert describe_fusion(network, CPU) == fused.Fusion(BATCHNORMS[name], BATCHNORMS[name], "")


@pytest.mark.parametrize("name", sorted(mini.ARCHITECTURES))
def test_trained_networks_on_100_images(name: str) -> None:
    settings = ["device=cpu", f"model={name}", "data.val_images=100", "calibration.images=64", "batch_size=40"]
    settings += ["recalibration.images=64", "recalibration.batch_size=32"]
    rows = list(script("compare_fused").compare([*settings, "recal=true"], threads=[4]))
    assert [row.images for row in rows] == [100] * 2
    assert [(row.fused.largest, row.fused.predictions, row.torchs) for row in rows] == [(0.0, 0, None)] * 2
    assert all(row.batchnorms >= 20 for row in rows)


def quantized(threads: int = 4) -> nn.Module:
    return threaded(tiny(), threads, images(16))


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(images(8, seed=seed), torch.zeros(8, dtype=torch.int64)) for seed in range(count)]


@contextmanager
def counted_endings() -> Iterator[list[nn.Module]]:
    """Every chain that runs in the block."""
    ran: list[nn.Module] = []
    own = Ended.forward

    def forward(self: Ended, *args: Any) -> Tensor:
        ran.append(self)
        return own(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ended, "forward", forward)
        yield ran


def test_evaluation_is_fused_from_the_second_batch_on() -> None:
    network = quantized()
    with counted_endings() as ran:
        evaluate({"4T": network}, batches(1))
        assert ran == []
        evaluate({"4T": network}, batches(4))
    assert len(ran) == 3 * 4  # batches 2 to 4, and four BatchNorm layers


def state(network: nn.Module) -> list[Any]:
    """All that modules hold."""
    return [(name, sorted(vars(module)), list(module.children())) for name, module in network.named_modules()]


def test_the_network_stays_as_it_was() -> None:
    network = quantized()
    attributes = state(network)
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate({"4T": network}, batches())
    assert state(network) == attributes
    after = network.state_dict()
    assert list(after) == list(tensors)
    assert all(torch.equal(after[name], value) for name, value in tensors.items())
    with counted_endings() as ran:
        recalibrate_(network, [images(8, seed=7)] * 3)
    assert ran == []


def test_statistics_that_change_between_two_evaluations_count() -> None:
    network = quantized()
    fresh = quantized()
    evaluate({"4T": network}, batches())
    for one in (network, fresh):
        recalibrate_(one, [images(16, seed=9, size=12) * 3])
        one.bn2.weight.data.mul_(-1)  # type: ignore[union-attr,operator]
    once = evaluate({"4T": network}, batches())["4T"]
    anew = evaluate({"4T": fresh}, batches(1) * 4)["4T"]
    assert once.images == anew.images
    with torch.no_grad():
        short = fuse(network)
        assert short is not None
        assert torch.equal(short(images(4)), fresh(images(4)))


def test_why_a_network_is_not_fused_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    network = tiny()
    network.bn1.register_forward_hook(lambda *_: None)
    with caplog.at_level("DEBUG", "bnrecal"):
        assert fused_or_none(network) is None
    assert caplog.messages == ["evaluation is not fused: hooks on bn1"]


HIDDEN = (
    "^the quantized convolution depthwise gets NaN or infinity, which 8 bits would hide: check the images, the weights "
    "and what the network computes before it$"
)


def test_infinity_inside_the_network_is_refused_with_the_layers_name() -> None:
    network = quantized()
    short = fuse(network)
    assert short is not None
    network.bn2.running_mean.fill_(-math.inf)  # type: ignore[union-attr,operator]
    with torch.no_grad(), pytest.raises(BnrecalError, match=HIDDEN):
        network(images(2))
    later = fuse(network)
    assert later is not None
    with torch.no_grad(), pytest.raises(BnrecalError, match=HIDDEN):
        later(images(2))
    with torch.no_grad():
        assert short(images(2)).isfinite().all()  # its values were read before


def test_a_checked_input_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[torch.Size] = []

    def all_finite(x: Tensor) -> bool:
        looked.append(x.shape)
        return True

    short = fuse(quantized())
    assert short is not None
    monkeypatch.setattr("bnrecal.quantization.nbsmt_conv.all_finite", all_finite)
    with torch.no_grad():
        short(images(2).contiguous(memory_format=torch.channels_last))
    assert looked == []


@contextmanager
def seen_types() -> Iterator[dict[str, torch.dtype]]:
    """The type of each quantized convolution's input in the block, by name."""
    seen: dict[str, torch.dtype] = {}
    own = NBSMTConv2d.__call__

    def noted(self: NBSMTConv2d, call: ConvCall) -> Tensor:
        seen[self.name] = call.x.dtype
        return own(self, call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NBSMTConv2d, "__call__", noted)
        yield seen


class Readers(nn.Module):
    """Four convolutions: one alone reads what is before it, one with an addition, one with others, one reads a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.alone = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.signed = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.pooled = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm2 = nn.BatchNorm2d(8)
        self.norm3 = nn.BatchNorm2d(8)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.norm2(self.alone(x)).relu()
        x = self.norm2(self.shared(x)) + x
        x = self.norm3(self.signed(x)) + x.mean((2, 3), keepdim=True)
        y: Tensor = self.norm(self.pooled(F.max_pool2d(x, 2))).relu()
        return y.mean((2, 3))


def test_the_only_reader_gets_levels() -> None:
    batch = images(3).contiguous(memory_format=torch.channels_last) - 0.3
    network = with_statistics(Readers(), batch)
    copy = threaded(network, 4, batch)
    short = fuse(copy)
    assert short is not None
    with torch.no_grad(), seen_types() as seen:
        found = short(batch)
    assert seen == {
        "alone": torch.uint8,
        "shared": torch.uint8,  # and its float32 is added
        "signed": torch.float32,
        "pooled": torch.float32,
    }
    assert torch.equal(found, copy(batch))


def test_levels_beside_float32_are_kept_no_longer_than_needed() -> None:
    batch = images(3).contiguous(memory_format=torch.channels_last)
    copy = threaded(with_statistics(full_network("resnet18"), batch), 2, batch)
    short = fuse(copy)
    assert short is not None
    handed: list[bool] = []
    own = Ended._hand_over

    def hand_over(self: Ended) -> Tensor | None:
        made = own(self)
        handed.append(made is not None)
        return made

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Ended, "_hand_over", hand_over)
        assert torch.equal(short(batch), copy(batch))
    # Of eight blocks the last one's result is pooled; each other has a convolution behind it, three have two.
    assert handed == [True] * (8 + 3)
    assert all(module.result.made is None for module in short.modules() if isinstance(module, Ended))


class Pooled(nn.Module):
    """A stem with max-pooling, the result of which a convolution reads and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm(self.stem(x)).relu())
        y: Tensor = (self.norm2(self.conv(x)) + x).relu()
        return y.mean((2, 3))


def test_a_stem_with_its_pooling() -> None:
    batch = images(3).contiguous(memory_format=torch.channels_last)
    network = with_statistics(Pooled(), batch)
    for threads in (0, 1, 4):
        copy = threaded(network, threads, batch)
        short = fuse(copy)
        assert short is not None
        assert [name for name, _ in short.named_children() if "pool" in name] == []
        bad = batch.clone(memory_format=torch.channels_last)
        bad[1, 0, 3, 3] = math.nan
        with torch.no_grad():
            with seen_types() as seen:
                found = short(batch)
            assert torch.equal(found, copy(batch))
            if threads == 0:  # a quantized convolution refuses NaN
                assert torch.equal(short(bad).isnan(), copy(bad).isnan())
            else:
                assert seen == {"conv": torch.uint8}
                with pytest.raises(BnrecalError, match="NaN or infinity"):
                    short(bad)


def test_levels_of_either_sign_and_for_a_permuted_convolution() -> None:
    batch = images(3).contiguous(memory_format=torch.channels_last)
    network = with_statistics(negative_net(), batch)
    copy = threaded(network, 4, batch)
    with torch.no_grad():
        for permutation, kind in ((None, torch.int8), (torch.tensor([3, 2, 1, 0]), torch.float32)):
            threaded_layers(copy)["2"].permutation = permutation
            short = fuse(copy)
            assert short is not None
            with seen_types() as seen:
                found = short(batch)
            assert seen == {"2": kind}
            assert torch.equal(found, copy(batch))


class Unfit(nn.Module):
    """A convolution that gets levels, and whose own end adds what one pass cannot take."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm2 = nn.BatchNorm2d(8)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm2(self.conv(self.norm(self.stem(x)).relu())) + x.mean((2, 3), keepdim=True)[:, :1]
        return y.mean((2, 3))


def test_levels_where_the_reader_is_not_fused_itself() -> None:
    batch = images(3).contiguous(memory_format=torch.channels_last)
    copy = threaded(with_statistics(Unfit(), batch), 2, batch)
    short = fuse(copy)
    assert short is not None
    with torch.no_grad(), seen_types() as seen:
        found = short(batch)
    assert seen == {"conv": torch.uint8}
    assert torch.equal(found, copy(batch))


def test_a_graph_that_says_something_else_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    network = Aliased()
    runner = FusedNetwork(network)
    for seed in range(4):
        with torch.no_grad():
            assert torch.equal(runner(images(2, seed=seed)), network(images(2, seed=seed)))
    assert runner.fused is None
    assert caplog.messages == [
        "evaluation goes on unfused: a graph of the network gives other logits than its own forward"
    ]


class Shapes(nn.Module):
    """Additions of other shapes and types than the convolution's output."""

    def __init__(self, added: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.added = added
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        added = self.added(x)
        y: Tensor = (self.norm(self.conv(x)) + added).relu()
        return y.mean((2, 3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    "added",
    [
        lambda x: x,
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.contiguous(),
        lambda x: x.double(),
        lambda x: x.size(0),
        lambda x: x[:, :, :, ::1].transpose(2, 3),
    ],
)
def test_additions_of_every_shape(added: Callable[[Tensor], Any], threads: int, layout: torch.memory_format) -> None:
    batch = images(3)
    network = Shapes(added).to(memory_format=layout)
    copy = threaded(network, threads, batch)
    short = fuse(copy)
    assert short is not None
    with torch.no_grad():
        assert torch.equal(short(batch), copy(batch))


def test_why_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny()
    assert describe_fusion(network, CPU) == fused.Fusion(4, 4, "")
    network.fc.register_forward_hook(lambda *_: None)
    assert describe_fusion(network, CPU) == fused.Fusion(4, 0, "hooks on fc")
    monkeypatch.setattr(fused, "ending", lambda _: Ending.NONE)
    monkeypatch.setattr(fused, "ending_trouble", lambda _: "no")
    assert describe_fusion(tiny(), CPU) == fused.Fusion(4, 0, "no")
    runner = FusedNetwork(tiny())
    with counted_endings() as ran:
        for _ in range(4):
            runner(images(2))
    assert ran == []
