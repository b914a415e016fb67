"""Networks that begin alike: what they have in common is computed once, and every logit is the network's own."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from helpers.fusing import with_statistics
from helpers.nets import Tiny, images, tiny
from torch import Tensor, fx, nn

from bnrecal.batchnorm.recalibrate import recalibrate_
from bnrecal.evaluation.accuracy import evaluate
from bnrecal.models import mini
from bnrecal.nbsmt.engines.apply_end import Ending, ending
from bnrecal.nbsmt.float_conv import forward
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization import shared
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy
from bnrecal.quantization.fused import Ended, fuse
from bnrecal.quantization.layer_plan import plan_threads
from bnrecal.quantization.shared import EvaluatedNetworks, SharedNetworks

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(ending(CPU) is not Ending.TORCHS, reason="no fused end on this processor")
Slower = Mapping[str, int]


def choices(network: nn.Module, batch: Tensor, slower: Sequence[Slower], *, recal: bool) -> list[nn.Module]:
    """Copies with four threads but for the layers named, as a curve of Figure 1 has them."""
    infos = calibrate(network, [batch])
    made = {t: quantize_layers(plan_threads(infos, t, {}), SmtSpec(), "mean_max") for t in (1, 2, 4)}
    copies = []
    for named in slower:
        copies.append(threaded_copy(network, {name: made[named.get(name, 4)][name] for name in made[4]}).eval())
        if recal:
            recalibrate_(copies[-1], [batch])
    return copies


def fused_all(networks: Sequence[nn.Module]) -> list[fx.GraphModule]:
    graphs = [fuse(network) for network in networks]
    return [graph for graph in graphs if graph is not None]


@torch.no_grad()
def by_place(networks: SharedNetworks, batch: Tensor) -> list[Tensor]:
    """The logits in the order of the networks."""
    logits = dict(networks(batch))
    return [logits[place] for place in range(len(logits))]


@torch.no_grad()
def alone(networks: Sequence[nn.Module], batch: Tensor) -> list[Tensor]:
    return [forward(network, batch) for network in networks]


def all_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Output and input channels of the convolutions of all chains that ran."""
    calls: list[str] = []
    own = Ended.forward

    def forward(self: Ended, x: Tensor, residual: Tensor | None = None) -> Tensor:
        calls.append(f"{self.conv.out_channels}x{self.conv.in_channels}" if self.conv is not None else "norm")
        return own(self, x, residual)

    monkeypatch.setattr(Ended, "forward", forward)
    return calls


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet"])
def test_choices_along_a_curve_have_their_own_logits(name: str) -> None:
    batch = images(4, size=32).contiguous(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = with_statistics(mini.ARCHITECTURES[name](num_classes=10), batch)
    layers = [info.name for info in calibrate(network, [batch])][1:]
    few = [layers[-1], layers[len(layers) // 2]]
    curve = [dict.fromkeys(few[:count], 2) for count in range(3)]
    networks = [*choices(network, batch, curve, recal=False), *choices(network, batch, curve, recal=True), network]
    graphs = fused_all(networks)
    together = SharedNetworks(graphs)
    other = images(4, seed=1, size=32).contiguous(memory_format=torch.channels_last)
    assert all_equal(by_place(together, other), alone(networks, other))
    assert sum(together.takers.values()) >= len(networks) - 1
    assert all_equal(by_place(together, batch), alone(networks, batch))  # nothing stays from the batch before
    chains = [module for graph in graphs for module in graph.modules() if isinstance(module, Ended)]
    assert all(chain.result.made is None for chain in chains)


def test_what_is_alike_runs_once(ran: list[str]) -> None:
    batch = images(16)
    network = with_statistics(tiny(), batch)
    networks = choices(network, batch, [{}, {"dilated": 2}, {"conv2": 2}, {}], recal=False)
    together = SharedNetworks(fused_all(networks))
    ran.clear()
    logits = by_place(together, images(16, seed=1))
    # stem once; conv2 and depthwise for each thread count of conv2; dilated for each of three different networks
    assert sorted(ran) == sorted(["8x3", *["16x8"] * 2, *["16x16"] * 2, *["16x16"] * 3])
    assert all_equal(logits, alone(networks, images(16, seed=1)))
    assert torch.equal(logits[0], logits[3])
    assert not torch.equal(logits[0], logits[1])


def other_statistics(network: Tiny) -> None:
    assert network.bn2.running_mean is not None
    network.bn2.running_mean += 0.1


def other_eps(network: Tiny) -> None:
    network.bn2.eps = 0.1


def other_weight(network: Tiny) -> None:
    network.bn2.weight = nn.Parameter(network.bn2.weight * 2)


def other_layer(network: Tiny) -> None:
    network.fc = nn.Linear(16, 5)


@pytest.mark.parametrize("change", [other_statistics, other_eps, other_weight, other_layer])
def test_a_copy_that_differs_in_one_thing_computes_its_own(change: Callable[[Tiny], None]) -> None:
    batch = images(16)
    networks = choices(with_statistics(tiny(), batch), batch, [{}, {}], recal=False)
    assert isinstance(networks[1], Tiny)
    change(networks[1])
    logits = by_place(SharedNetworks(fused_all(networks)), batch)
    assert all_equal(logits, alone(networks, batch))
    assert not torch.equal(*logits)


class Norm(nn.BatchNorm2d):
    """A class of its own, which is traced as one layer."""


class Doubled(nn.BatchNorm2d):
    """A layer that computes something else from the same tensors."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_layers_of_another_class_are_told_apart() -> None:
    batch = images(16)
    networks = choices(with_statistics(tiny(), batch), batch, [{}, {}], recal=False)
    for network, kind in zip(networks, (Norm, Doubled), strict=True):
        vars(network)["_modules"]["bn2"].__class__ = kind
    logits = by_place(SharedNetworks(fused_all(networks)), batch)
    assert all_equal(logits, alone(networks, batch))
    assert not torch.equal(*logits)


class Clamped(Tiny):
    """Other bounds of the clamps than `Tiny`, in the graph alone, and a function that stays by itself."""

    function: Callable[[Tensor], Tensor] = staticmethod(torch.relu)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.stem(x)))
        x = F.relu6(self.bn2(self.conv2(x)) + 5)
        x = self.function(5 * self.bn3(self.depthwise(x)))
        x = F.relu6(self.bn4(self.dilated(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Reflected(Clamped):
    function = staticmethod(torch.abs)


def test_other_functions_between_the_layers_are_told_apart() -> None:
    batch = images(16)
    network = with_statistics(tiny(), batch)
    networks: list[nn.Module] = [network]
    for kind in (Clamped, Reflected):
        parameters = {id(value): value for value in network.parameters()}
        networks.append(copy.deepcopy(network, dict(parameters)))
        networks[-1].__class__ = kind
    logits = by_place(SharedNetworks(fused_all(networks)), batch)
    assert all_equal(logits, alone(networks, batch))
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])


class Overwrites(Tiny):
    """Writes over what the first layers give, after others may have kept it."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.stem(x)))
        mean = x.mean((2, 3))
        y = self.bn2(self.conv2(x.mul_(self.factor)))
        return self.fc(F.relu(y).mean((2, 3)) + mean.repeat(1, 2))  # type: ignore[no-any-return]


def test_a_result_that_is_written_over_is_computed_again(ran: list[str]) -> None:
    batch = images(16)
    network = with_statistics(tiny(), batch)
    parameters = {id(value): value for value in network.parameters()}
    networks = [copy.deepcopy(network, dict(parameters)) for _ in range(3)]
    for place, one in enumerate(networks):
        one.__class__ = Overwrites
        assert isinstance(one, Overwrites)
        one.factor = 2.0 + place
    together = SharedNetworks(fused_all(networks))
    assert together.takers
    ran.clear()
    logits = by_place(together, batch)
    assert ran.count("8x3") == 3
    assert all_equal(logits, alone(networks, batch))


def test_what_finds_no_room_is_computed_again(monkeypatch: pytest.MonkeyPatch, ran: list[str]) -> None:
    batch = images(16)
    networks = choices(with_statistics(tiny(), batch), batch, [{}, {"dilated": 2}, {"dilated": 1}], recal=False)
    together = SharedNetworks(fused_all(networks))
    counts = []
    for room in (0, 16 * 16 * 6 * 6 - 1, shared.KEPT_BYTES):  # the levels that `dilated` takes are a byte a value
        monkeypatch.setattr(shared, "KEPT_BYTES", room)
        ran.clear()
        assert all_equal(by_place(together, batch), alone(networks, batch))
        counts.append(len(ran))
    assert counts == [12, 12, 6]


def test_results_are_kept_until_the_last_network_has_taken_them(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = images(16)
    networks = choices(with_statistics(tiny(), batch), batch, [{}, {"dilated": 2}, {"dilated": 1}], recal=False)
    together = SharedNetworks(fused_all(networks))
    kept: list[int] = []
    take = shared._Results.take

    def noted(self: shared._Results, number: int) -> object:
        result = take(self, number)
        kept.append(self.bytes)
        return result

    monkeypatch.setattr(shared._Results, "take", noted)
    by_place(together, batch)
    assert kept == [16 * 16 * 6 * 6, 0]


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    for seed in range(count):
        yield images(16, seed=seed), torch.arange(16) % 5


def test_an_evaluation_shares_from_the_third_batch_on(ran: list[str]) -> None:
    batch = images(16)
    networks = choices(with_statistics(tiny(), batch), batch, [{}, {"dilated": 2}, {"conv2": 2}], recal=True)
    own = [evaluate({"n": network}, batches(4))["n"].top1.tolist() for network in networks]
    ran.clear()
    together = evaluate(dict(enumerate(networks)), batches(4))
    assert [together[place].top1.tolist() for place in range(3)] == own
    # second batch: 3 networks of 4 chains each by themselves and once together; third and fourth: together
    assert len(ran) == 3 * 4 + 3 * 8


def test_shared_passes_that_give_other_logits_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = images(16)
    networks = choices(with_statistics(tiny(), batch), batch, [{}, {"conv2": 1}], recal=False)
    own = [evaluate({"n": network}, batches(4))["n"].top1.tolist() for network in networks]
    monkeypatch.setattr(shared, "module_key", type)
    together = evaluate(dict(enumerate(networks)), batches(4))
    assert [together[place].top1.tolist() for place in range(2)] == own
    assert "evaluation goes on network by network" in caplog.text


class Random(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, True))


def test_networks_that_draw_random_numbers_share_nothing() -> None:
    network = with_statistics(tiny(), images(16))
    network.__class__ = Random
    together = EvaluatedNetworks({"one": network, "other": network})
    for seed in range(3):
        torch.manual_seed(seed)
        logits = dict(together(images(16, seed=seed)))
    assert together.shared is None
    assert not torch.equal(logits["one"], logits["other"])
