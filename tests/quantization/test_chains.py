"""Chains in a network's graph, and networks that have no graph."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.nets import SameConv2d, tiny
from torch import Tensor, nn

from bnrecal.quantization.chains import Untraceable, find_chains, trace


class Net(nn.Module):
    """Parts for a forward, which is given."""

    def __init__(self, run: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.same = SameConv2d(3, 3, 2)
        self.norm = nn.BatchNorm2d(3)
        self.norm2 = nn.BatchNorm2d(3)
        self.bare = nn.BatchNorm2d(3, track_running_stats=False)
        self.relu = nn.ReLU(inplace=True)
        self.relu6 = nn.ReLU6()
        self.leaky = nn.LeakyReLU()
        self.pool = nn.MaxPool2d(2)
        self.gaps = nn.MaxPool2d(2, dilation=2)
        self.ceil = nn.MaxPool2d(2, ceil_mode=True)
        self.run = run
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def chains(run: Callable[[Net, Tensor], Any]) -> list[str]:
    """The names of the nodes of each chain, and what else it reads."""
    network = Net(run)
    found = find_chains(trace(network), dict(network.named_modules()))
    described = []
    for chain in found:
        nodes = " ".join(node.name for node in chain.nodes)
        residual = f" + {chain.residual.name}" if chain.residual is not None else ""
        bounds = "" if math.isinf(chain.lowest) else f" {chain.lowest:g}..{chain.highest:g}"
        described.append(f"{chain.source.name}: {nodes}{residual}{bounds}")
    return described


def in_place(n: Net, x: Tensor) -> Tensor:
    y = n.norm(n.conv(x))
    y += x
    return n.relu(y)  # type: ignore[no-any-return]


def downsampled(n: Net, x: Tensor) -> Tensor:
    y = n.norm(n.conv(x))
    return torch.relu(y + n.norm2(n.conv2(x)))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda n, x: n.relu(n.norm(n.conv(x))), ["x: conv norm relu 0..inf"]),
        (lambda n, x: n.relu6(n.norm(n.conv(x))), ["x: conv norm relu6 0..6"]),
        (lambda n, x: F.relu6(n.norm(n.conv(x)), inplace=True), ["x: conv norm relu6 0..6"]),
        (lambda n, x: F.relu(n.norm(n.conv(x)), True), ["x: conv norm relu 0..inf"]),
        (lambda n, x: n.norm(n.conv(x)).relu_(), ["x: conv norm relu_ 0..inf"]),
        (lambda n, x: n.leaky(n.norm(n.conv(x))), ["x: conv norm"]),
        (lambda n, x: n.norm(n.same(x)).relu(), ["same: norm relu 0..inf"]),
        (lambda n, x: n.conv(n.relu(n.norm(x))), ["x: norm relu 0..inf"]),
        (lambda n, x: n.relu(n.norm(n.conv(x)) + x), ["x: conv norm add relu + x 0..inf"]),
        (lambda n, x: x + n.norm(n.conv(x)), ["x: conv norm add + x"]),
        (lambda n, x: torch.add(n.norm(n.conv(x)), x), ["x: conv norm add + x"]),
        (in_place, ["x: conv norm add relu + x 0..inf"]),
        (lambda n, x: n.norm(n.conv(x)).add_(x), ["x: conv norm add_ + x"]),
        (lambda n, x: n.pool(n.relu(n.norm(n.conv(x)))), ["x: conv norm relu pool 0..inf"]),
        (lambda n, x: n.pool(n.norm(x)), ["x: norm pool"]),
        (lambda n, x: n.gaps(n.norm(n.conv(x))), ["x: conv norm"]),
        (lambda n, x: n.ceil(n.norm(n.conv(x))), ["x: conv norm"]),
        (lambda n, x: n.pool(n.norm(n.conv(x)) + x), ["x: conv norm add + x"]),
        (downsampled, ["x: conv norm", "x: conv2 norm2 add relu + norm 0..inf"]),
        # what is not the same thing
        (lambda n, x: torch.add(n.norm(n.conv(x)), x, alpha=2), ["x: conv norm"]),
        (lambda n, x: n.norm(n.conv(x)) + 1, ["x: conv norm"]),
        (lambda n, x: n.conv2(x).add_(n.norm(n.conv(x))), ["x: conv norm"]),
        (lambda n, x: F.hardtanh(n.norm(n.conv(x)), 0, 4), ["x: conv norm"]),
        (lambda n, x: n.bare(n.conv(x)), []),
        (lambda n, x: n.conv(x), []),
    ],
)
def test_chains(run: Callable[[Net, Tensor], Any], expected: list[str]) -> None:
    assert chains(run) == expected


def two_readers(n: Net, x: Tensor) -> Any:
    y = n.conv(x)
    z = n.norm(y)
    return y, z.relu(), z


def reader_between(n: Net, x: Tensor) -> Any:
    y = n.conv(x)
    z = n.conv2(x)
    return n.relu(n.norm(y)), z


def doubled(n: Net, x: Tensor) -> Tensor:
    y: Tensor = n.norm(n.conv(x))
    return y + y


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (two_readers, ["conv: norm"]),
        (reader_between, ["conv: norm relu 0..inf"]),
        (doubled, ["x: conv norm"]),
        (lambda n, x: n.norm(n.conv(x)), ["x: conv norm"]),
    ],
)
def test_nothing_is_fused_that_others_read(run: Callable[[Net, Tensor], Any], expected: list[str]) -> None:
    assert chains(run) == expected


def test_layers_that_are_not_torchs_own() -> None:
    network = Net(lambda n, x: n.relu(n.norm(n.conv(x))))
    modules = dict(network.named_modules())
    graph = trace(network)
    assert len(find_chains(graph, modules)) == 1
    network.norm.running_mean.data = network.norm.running_mean.double()  # type: ignore[union-attr]
    assert find_chains(graph, modules) == []
    network = Net(lambda n, x: n.relu(n.norm(n.conv(x))))
    network.norm.train()
    assert find_chains(trace(network), dict(network.named_modules())) == []
    network = Net(lambda n, x: n.relu(n.norm(n.conv(x))))
    network.relu.forward = network.leaky.forward  # type: ignore[method-assign]
    (chain,) = find_chains(trace(network), dict(network.named_modules()))
    assert [node.name for node in chain.nodes] == ["conv", "norm"]


class Counts(nn.Module):
    """Notes its calls, in an attribute or in a buffer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.calls = 0
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.body = tiny()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "attribute":
            self.calls += 1
        else:
            self.count += 1
        return self.body(x)  # type: ignore[no-any-return]


class Decides(nn.Module):
    """Looks at its images."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def hooked() -> nn.Module:
    network = tiny()
    network.bn1.register_forward_hook(lambda *_: None)
    return network


def watched() -> nn.Module:
    network = tiny()
    network.register_forward_pre_hook(lambda *_: None)
    return network


def compiled() -> nn.Module:
    network = tiny()
    network._compiled_call_impl = network.forward  # as network.compile() leaves it
    return network


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Counts("attribute"), "^its forward changes its own attributes or buffers$"),
        (lambda: Counts("buffer"), "^its forward changes its own attributes or buffers$"),
        (Decides, "TraceError"),
        (hooked, "^hooks on bn1$"),
        (watched, "^hooks on the network$"),
        (lambda: nn.Sequential(compiled()), "^0 is compiled$"),
        (compiled, "^the network is compiled$"),
    ],
)
def test_no_graph(make: Callable[[], nn.Module], why: str) -> None:
    network = make()
    with pytest.raises(Untraceable, match=why):
        trace(network)
    if isinstance(network, Counts):
        assert network.calls == 0
        assert float(network.count) == 0
