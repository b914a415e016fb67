"""What evaluation's own BatchNorm keeps of a layer, and when it looks again; here on a processor's real tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnrecal.batchnorm.recalibrate import recalibrate_
from bnrecal.nbsmt.engines.apply_end import Ending, alpha_beta
from bnrecal.quantization import eval_norm
from bnrecal.quantization.eval_norm import evaluation_norm

CPU = torch.device("cpu")
X = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_norm, "ending", lambda _: Ending.OWN)


@contextmanager
def counted() -> Iterator[list[int]]:
    """The channels of each layer whose alpha and beta are computed in the block."""
    seen: list[int] = []

    def counting(mean: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        seen.append(mean.numel())
        return alpha_beta(mean, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_norm, "alpha_beta", counting)
        yield seen


def anew(layer: nn.BatchNorm2d) -> Tensor:
    """What a block that has kept nothing gives."""
    with evaluation_norm(CPU):
        y: Tensor = layer(X)
    return y


def halve(layer: nn.BatchNorm2d) -> None:
    assert layer.running_var is not None
    layer.running_var.mul_(0.5)


def load(layer: nn.BatchNorm2d) -> None:
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})


def load_by_assignment(layer: nn.BatchNorm2d) -> None:
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()}, assign=True)


def replace_weight(layer: nn.BatchNorm2d) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() * 2)


def another_view(layer: nn.BatchNorm2d) -> None:
    layer.weight = nn.Parameter(layer.weight.detach()[:1].expand(3))  # at the same address


def replace_data(layer: nn.BatchNorm2d) -> None:
    layer.bias.data = layer.bias.data + 1


def other_eps(layer: nn.BatchNorm2d) -> None:
    layer.eps = 0.5


def recalibrate(layer: nn.BatchNorm2d) -> None:
    ones = torch.ones(4, layer.num_features, 3, 3)
    recalibrate_(nn.Sequential(layer), [ones * 3, ones * 5])


def nothing(_: nn.BatchNorm2d) -> None: ...


CHANGES = (halve, load, load_by_assignment, replace_weight, another_view, replace_data, other_eps, recalibrate)


@pytest.mark.parametrize("change", [nothing, *CHANGES])
@torch.no_grad()
def test_a_layer_that_changes_between_two_batches_counts(change: Callable[[nn.BatchNorm2d], None]) -> None:
    layer = nn.BatchNorm2d(3).eval()
    layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm = evaluation_norm(CPU)
    with norm:
        before = layer(X)
    change(layer)
    with norm, counted() as seen:
        after = layer(X)
    assert len(seen) == (0 if change is nothing else 1)
    assert torch.equal(after, before) == (change is nothing)
    assert torch.equal(after, anew(layer))


@torch.no_grad()
def test_a_layer_that_is_trained_in_the_block_counts() -> None:
    layer = nn.BatchNorm2d(3).eval()
    with evaluation_norm(CPU):
        before = layer(X)
        layer.train()(X * 3)
        after = layer.eval()(X)
    assert not torch.equal(after, before)
    assert torch.equal(after, anew(layer))


def test_layers_made_in_inference_mode_keep_nothing() -> None:
    with torch.inference_mode(), evaluation_norm(CPU), counted() as seen:
        layer = nn.BatchNorm2d(3).eval()
        for _ in range(2):
            layer(X)
    assert seen == [3, 3]


@torch.no_grad()
def test_layers_that_are_gone_leave_nothing_behind() -> None:
    norm = evaluation_norm(CPU)
    with norm:
        for _ in range(3):
            nn.BatchNorm2d(3).eval()(X)
    assert len(vars(norm)["_kept"]) == 0
