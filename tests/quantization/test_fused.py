"""Fused evaluation: the logits of the unfused network to the last bit, and a network that stays as it was."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.fusing import full_network, threaded, with_statistics
from helpers.nets import Aliased, images, tiny
from helpers.scripts import script
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import recalibrate_
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import evaluate
from bnrecal.models import mini
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.quantization import fused
from bnrecal.quantization.fused import Ended, FusedNetwork, describe_fusion, fuse, fused_or_none

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(ending(CPU) is not Ending.TORCHS, reason="no fused end on this processor")


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
