from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.nets import SameConv2d, images, tiny
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import batchnorms
from bnrecal.errors import BnrecalError
from bnrecal.export.fold import TracedConv, _described, affine, find_folds, trace_convolutions
from bnrecal.export.network import load_folded_
from bnrecal.export.tensors import _check_bias, folded_state
from bnrecal.models.mini import build_mini


class HalfConv2d(nn.Conv2d):
    """Changes its output after the product."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class OwnNorm(nn.BatchNorm2d):
    """Changes its output after normalising."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Obstacles(nn.Module):
    """One BatchNorm that folds, and one for every reason not to."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Sequential(SameConv2d(3, 4, 2), nn.BatchNorm2d(4))
        self.halved = nn.Sequential(HalfConv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.own = nn.Sequential(nn.Conv2d(4, 4, 1), OwnNorm(4))
        self.after_relu = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
        self.fork = nn.Conv2d(4, 4, 1)
        self.after_fork = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.after_twice = nn.BatchNorm2d(4)
        self.tied = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.tied[0].weight = self.fork.weight
        self.norm_twice = nn.BatchNorm2d(4)
        self.unused = nn.BatchNorm2d(4)
        self.after_cat = nn.BatchNorm2d(8)
        self.first = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after_relu(self.own(self.halved(self.good(self.first(x)))))
        forked = self.fork(x)
        x = self.after_fork(forked) + forked
        x = self.after_twice(self.twice(self.twice(x)))
        x = self.tied(x)
        x = self.norm_twice(self.norm_twice(x))
        features: Tensor = self.after_cat(torch.cat([x, x], 1))
        return features.mean((2, 3))


def test_what_is_not_in_the_graph_is_a_constant() -> None:
    assert _described(1.0) == "a constant"


def test_a_bias_that_is_added_outside_the_product_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    traced = TracedConv(1, torch.ones(4, 3, 1, 1), None, plain=False)
    message = (
        r"^the convolution 0 adds its bias outside the product, which cannot be exported: leave it in float32 with "
        r"quant.skip=\[0\]$"
    )
    with pytest.raises(BnrecalError, match=message):
        _check_bias(network, "0", traced)
    _check_bias(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False)), "0", traced)


def test_each_batchnorm_that_cannot_be_folded_is_named_with_its_reason() -> None:
    network = Obstacles().eval()
    folding = find_folds(network, trace_convolutions(network, images(1)))
    assert folding.into == {"good.0": "good.1"}
    assert folding.kept == {
        "halved.1": "follows halved.0, whose forward does more than its convolution",
        "own.1": "OwnNorm has a forward of its own",
        "after_relu.2": "follows after_relu.1, not a convolution",
        "after_fork": "follows fork, whose output is used elsewhere too",
        "after_twice": "follows twice, which is called 2 times",
        "tied.1": "follows tied.0, which shares its weight with another module",
        "norm_twice": "is called 2 times",
        "unused": "is called 0 times",
        "after_cat": "follows cat, not a convolution",
        "first": "follows the network's input, not a convolution",
    }
    assert not any("forward" in vars(module) for module in network.modules())  # the network is left as it was
    assert not any(module._forward_hooks for module in network.modules())


class Branching(nn.Module):
    """Control flow that follows the images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x)) if x.sum() > 0 else x


def test_a_network_that_cannot_be_traced_keeps_every_batchnorm() -> None:
    network = Branching().eval()
    folding = find_folds(network, trace_convolutions(network, images(1)))
    assert folding.into == {}
    assert folding.kept["norm"].startswith("torch.fx cannot trace the network (symbolically traced variables")


@pytest.mark.parametrize(
    ("name", "folded", "kept"),
    [("resnet18", 20, 0), ("resnet50", 53, 0), ("googlenet", 57, 0), ("densenet121", 59, 62), ("mobilenet_v1", 27, 0)],
)
def test_how_many_fold_in_the_networks_of_table_1(name: str, folded: int, kept: int) -> None:
    network = build_mini(name).eval()
    folding = find_folds(network, trace_convolutions(network, images(1, size=32)))
    assert (len(folding.into), len(folding.kept)) == (folded, kept)
    if name == "densenet121":  # pre-activation: the first of each layer's two normalises a concatenation
        assert folding.into["features.denseblock1.denselayer2.conv1"] == "features.denseblock1.denselayer2.norm2"
        assert "features.denseblock1.denselayer2.norm1" in folding.kept


def test_gain_and_shift_are_those_of_batchnorm_in_eval_mode() -> None:
    torch.manual_seed(0)
    for layer in (nn.BatchNorm2d(5, eps=0.1), nn.BatchNorm2d(5, affine=False)):
        layer.train()(torch.randn(16, 5, 3, 3) * 3 + 1)
        if layer.affine:
            nn.init.normal_(layer.weight)  # negative gains among them
            nn.init.normal_(layer.bias)
        gain, shift = affine(layer)
        x = torch.randn(2, 5, 4, 4)
        expected = layer.eval()(x).double()
        assert torch.allclose(gain.view(-1, 1, 1) * x.double() + shift.view(-1, 1, 1), expected, atol=1e-5)


def vary(network: nn.Module) -> None:
    """Gammas of either sign, betas other than zero."""
    generator = torch.Generator().manual_seed(1)
    for layer in batchnorms(network).values():
        layer.weight.data.normal_(generator=generator)
        layer.bias.data.normal_(generator=generator)


def test_the_folded_state_loads_into_the_stock_architecture_and_answers_alike() -> None:
    network = tiny()
    vary(network)
    traced = trace_convolutions(network, images(1))
    folding = find_folds(network, traced)
    state = folded_state(network, folding, traced)
    assert not any("bn" in key for key in state)
    stock = load_folded_(tiny(seed=1), state)
    assert isinstance(stock.get_submodule("bn2"), nn.Identity)
    with torch.no_grad():
        expected = network(images(8))
        found = stock.eval()(images(8))
    assert F.mse_loss(found, expected).sqrt() < 1e-5 * expected.std()


def test_a_folded_state_of_another_architecture_is_refused() -> None:
    network = tiny()
    traced = trace_convolutions(network, images(1))
    state = folded_state(network, find_folds(network, traced), traced)
    with pytest.raises(BnrecalError, match=r"the folded weights do not fit Obstacles: .*good"):
        load_folded_(Obstacles(), state)
