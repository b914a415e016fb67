import copy
from collections.abc import Iterator

import pytest
import torch
from helpers.nets import Tiny, images, tiny
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from bnrecal.batchnorm.recalibrate import (
    batch_statistics,
    batchnorms,
    load_statistics,
    recalibrate_,
    statistics,
    warn_of_others,
)
from bnrecal.errors import BnrecalError
from bnrecal.experiment.layer_report import describe_batchnorms

BATCHES = [images(8, seed) + 0.3 * seed for seed in range(4)]


def lone_batchnorm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(3).eval()
    layer.running_mean = torch.tensor([1.0, 2.0, 3.0])
    layer.running_var = torch.tensor([4.0, 5.0, 6.0])
    return layer


def test_ema_is_its_closed_form() -> None:
    layer = lone_batchnorm()
    mean = torch.tensor([1.0, 2.0, 3.0])
    var = torch.tensor([4.0, 5.0, 6.0])
    for x in BATCHES:
        mean = 0.75 * mean + 0.25 * x.mean((0, 2, 3))
        var = 0.75 * var + 0.25 * x.transpose(0, 1).flatten(1).var(1)
    assert recalibrate_(layer, BATCHES, method="ema", momentum=0.25) == 32
    assert torch.allclose(layer.running_mean, mean)  # type: ignore[arg-type]
    assert torch.allclose(layer.running_var, var)  # type: ignore[arg-type]


def test_cumulative_is_the_mean_over_batches_as_update_bn_has_it() -> None:
    own = tiny()
    torchs = tiny()
    torchs.dropout = nn.Identity()  # type: ignore[assignment]  # update_bn wakes it, we do not
    recalibrate_(own, BATCHES, method="cumulative")
    update_bn(BATCHES, torchs)
    for name, value in statistics(own).items():
        assert torch.allclose(value.float(), statistics(torchs)[name].float(), atol=1e-6), name


def test_pooled_is_the_mean_and_variance_of_everything() -> None:
    layer = lone_batchnorm()
    recalibrate_(layer, [*BATCHES, images(3, 9)], method="pooled")
    values = torch.cat([*BATCHES, images(3, 9)]).transpose(0, 1).flatten(1).double()
    assert torch.equal(layer.running_mean, values.mean(1).float())  # type: ignore[arg-type]
    assert torch.allclose(layer.running_var, values.var(1).float(), rtol=1e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["ema", "cumulative", "pooled"])
def test_only_batchnorm_buffers_change_and_modes_and_momenta_come_back(method: str) -> None:
    network = tiny()
    network.bn2.momentum = 0.37
    network.dropout.train()  # an odd mode, to be given back as it was
    modes = {name: module.training for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recalibrate_(network, BATCHES, method=method)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert network.bn2.momentum == 0.37
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= set(statistics(network))
    assert {f"bn{i}.running_mean" for i in (1, 2, 3, 4)} <= changed


@pytest.mark.parametrize("method", ["ema", "cumulative", "pooled"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_everything_as_it_was(method: str, failure: type[BaseException]) -> None:
    def interrupted() -> Iterator[Tensor]:
        yield BATCHES[0]
        raise failure

    network = tiny()
    before = statistics(network)
    with pytest.raises(failure):
        recalibrate_(network, interrupted(), method=method)
    for name, value in statistics(network).items():
        assert torch.equal(value, before[name]), name
    assert not any(module.training for module in network.modules())
    assert not any(layer._forward_pre_hooks for layer in batchnorms(network).values())


@pytest.mark.parametrize("method", ["ema", "cumulative", "pooled"])
def test_a_layer_that_is_never_reached_keeps_its_statistics(method: str) -> None:
    class WithHead(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.BatchNorm2d(4)

    network = WithHead().eval()
    network.head.running_mean = torch.arange(4.0)
    recalibrate_(network, BATCHES, method=method)
    assert torch.equal(network.head.running_mean, torch.arange(4.0))
    assert torch.equal(network.head.running_var, torch.ones(4))  # type: ignore[arg-type]


def test_without_batchnorm_or_images_or_a_known_method_there_is_an_error() -> None:
    with pytest.raises(BnrecalError, match="no BatchNorm layer"):
        recalibrate_(nn.Conv2d(3, 3, 1), BATCHES)
    with pytest.raises(BnrecalError, match="no images"):
        recalibrate_(tiny(), [])
    with pytest.raises(BnrecalError, match=r"recalibration.method=median: choose one of ema"):
        recalibrate_(tiny(), BATCHES, method="median")


def untracked() -> Tiny:
    """Its second BatchNorm has its statistics frozen, its third none."""
    network = tiny()
    network.bn2.track_running_stats = False
    network.bn3 = nn.BatchNorm2d(16, track_running_stats=False)
    return network.eval()


def test_layers_without_statistics_of_their_own_are_left_alone_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    network = untracked()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recalibrate_(network, BATCHES)
    recalibrate_(network, BATCHES)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"bn{i}.{key}" for i in (1, 4) for key in ("running_mean", "running_var", "num_batches_tracked")}
    assert caplog.messages == [
        "recalibration leaves BatchNorm bn2 alone, which keep the statistics they hold: set track_running_stats=True "
        "to re-estimate them",
        "BatchNorm bn3 hold no running statistics and normalise with those of each batch: accuracy depends on the "
        "batch size, and recalibration has nothing to re-estimate",
    ]
    assert batchnorms(network).keys() == {"bn1", "bn4"}


@pytest.mark.parametrize(
    ("layers", "named"), [(1, "of the network"), (5, "0, 1, 2, 3, 4"), (7, "0, 1, 2, 3, 4 and 2 more")]
)
def test_at_most_five_layers_are_named(layers: int, named: str, caplog: pytest.LogCaptureFixture) -> None:
    norms = [nn.BatchNorm2d(3, track_running_stats=False) for _ in range(layers)]
    warn_of_others(norms[0] if layers == 1 else nn.Sequential(*norms))
    assert [message.partition(" hold no")[0] for message in caplog.messages] == [f"BatchNorm {named}"]


def test_values_that_are_not_finite_inside_the_network_are_named() -> None:
    class Grows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.where(x.sum() > 200, torch.inf, 1.0)

    network = nn.Sequential(Grows(), nn.BatchNorm2d(3)).eval()
    before = statistics(network)
    few = torch.full((2, 3, 4, 4), 0.5)
    said = (
        "recalibration batch 2 brings BatchNorm layer 1 NaN, infinity or values beyond float32, made inside the "
        "network: check its weights, or leave these images out"
    )
    with pytest.raises(BnrecalError, match=f"^{said}$"):
        recalibrate_(network, [few, 10 * few])
    for name, value in statistics(network).items():
        assert torch.equal(value, before[name]), name


def test_layers_that_lost_their_statistics_are_named_too(caplog: pytest.LogCaptureFixture) -> None:
    network = tiny()
    network.bn4.running_mean = network.bn4.running_var = None
    recalibrate_(network, BATCHES)
    assert "BatchNorm bn4 hold no running statistics" in caplog.text


def test_the_table_has_a_row_for_every_batchnorm() -> None:
    network = untracked()
    own = copy.deepcopy(network)
    recalibrate_(own, BATCHES)
    table = describe_batchnorms(network, own)
    assert list(table) == ["name", "channels", "mean_shift", "variance_ratio", "status"]
    table = table.set_index("name")
    assert table["status"].to_dict() == {"bn1": "running", "bn2": "frozen", "bn3": "batch", "bn4": "running"}
    assert (table.loc[["bn1", "bn4"], "mean_shift"] > 0).all()
    assert (table.loc["bn2", "mean_shift"], table.loc["bn2", "variance_ratio"]) == (0, 1)
    assert table.loc["bn3", ["mean_shift", "variance_ratio"]].isna().all()
    assert table["channels"].tolist() == [8, 16, 16, 16]


def test_statistics_round_trip() -> None:
    one = tiny(0)
    other = tiny(1)
    load_statistics(one, statistics(other))
    for name, value in statistics(one).items():
        assert torch.equal(value, statistics(other)[name])


@pytest.mark.parametrize("method", ["ema", "cumulative"])
def test_the_network_computes_as_in_training_mode_meanwhile(method: str) -> None:
    own = tiny()
    torchs = tiny()
    recalibrate_(own, BATCHES, method=method, momentum=0.3)
    for layer in batchnorms(torchs).values():
        layer.train()
        layer.momentum = 0.3
        if method == "cumulative":
            layer.momentum = None
            layer.reset_running_stats()
    with torch.no_grad():
        for batch in BATCHES:
            torchs(batch)
    for name, value in statistics(own).items():
        assert torch.allclose(value.float(), statistics(torchs)[name].float(), rtol=1e-5, atol=1e-6), name


def test_a_layer_that_does_more_than_normalise_is_normalised_by_the_batch_and_does_it() -> None:
    class BatchNormAndReLU(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    layer = BatchNormAndReLU(3).eval()
    with batch_statistics({"": layer}), torch.no_grad():
        found = layer(input=BATCHES[1])
    x = BATCHES[1].double()
    mean = x.mean((0, 2, 3), keepdim=True)
    var = x.var((0, 2, 3), correction=0, keepdim=True)
    assert torch.allclose(found.double(), ((x - mean) / (var + layer.eps).sqrt()).relu(), atol=1e-5)


def test_one_value_a_channel_is_reported() -> None:
    said = "^a batch brought a BatchNorm layer one value per channel: use larger batches$"
    with pytest.raises(BnrecalError, match=said):
        recalibrate_(nn.BatchNorm1d(3), [torch.ones(1, 3)])


def test_two_values_a_channel_are_enough() -> None:
    layer = nn.BatchNorm1d(3).eval()
    x = torch.tensor([[1.0, 2, 3], [5, 2, 7]])
    assert recalibrate_(layer, [x], method="cumulative") == 2
    assert torch.allclose(layer.running_mean, x.mean(0))  # type: ignore[arg-type]
    assert torch.allclose(layer.running_var, x.var(0))  # type: ignore[arg-type]
