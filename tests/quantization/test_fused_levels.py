"""Levels that fused convolutions hand on: to whom, beside what else, and for how long."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from helpers.fusing import full_network, threaded, with_statistics
from helpers.nets import images, negative_net
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.quantization.convert import threaded_layers
from bnrecal.quantization.fused import Ended, fuse
from bnrecal.quantization.intercept import ConvCall
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(ending(CPU) is not Ending.TORCHS, reason="no fused end on this processor")


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
