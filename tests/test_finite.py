"""NaN, infinity, empty batches and other types are refused in one line, wherever a level would hide them."""

from collections.abc import Callable

import pytest
import torch
from helpers.nets import images, tiny
from torch import Tensor, nn

import bnrecal
from bnrecal.batchnorm.recalibrate import recalibrate_, statistics
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import evaluate
from bnrecal.nbsmt.finite import all_finite
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import collect_collisions

LABELS = torch.zeros(8, dtype=torch.int64)
BAD = [float("nan"), float("inf"), -float("inf")]


def with_one(value: float) -> list[Tensor]:
    """Three batches, one pixel of the second replaced."""
    batches = [images(8, seed) for seed in range(3)]
    batches[1][3, 2, 5, 7] = value
    return batches


def quantized(network: nn.Module | None = None) -> nn.Module:
    return bnrecal.quantize(network or tiny(), [images(8)], bnrecal.SmtSpec(threads=4))


CALLS: dict[str, Callable[[list[Tensor]], object]] = {
    "calibration batch 2": lambda batches: bnrecal.quantize(tiny(), batches, bnrecal.SmtSpec(threads=4)),
    "recalibration batch 2": lambda batches: bnrecal.recalibrate_(quantized(), batches),
    "validation batch 2": lambda batches: bnrecal.evaluate({"4T": quantized()}, [(x, LABELS) for x in batches]),
    "batch 2": lambda batches: bnrecal.layer_table(quantized(), batches),
}
INSIDE: dict[str, Callable[[list[Tensor]], object]] = {
    "calibration batch 2": lambda batches: calibrate(tiny(), batches),
    "recalibration batch 2": lambda batches: recalibrate_(tiny(), batches),
    "validation batch 2": lambda batches: evaluate({"4T": quantized()}, [(x, LABELS) for x in batches]),
    "batch 2": lambda batches: collect_collisions(quantized(), batches),
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("calls", [CALLS, INSIDE], ids=["from Python", "from the command line"])
@pytest.mark.parametrize("batch", CALLS)
def test_one_bad_pixel_is_refused_with_its_batch(
    batch: str, calls: dict[str, Callable[[list[Tensor]], object]], value: float
) -> None:
    with pytest.raises(BnrecalError, match=f"^{batch} has NaN or infinity in its images: mend those"):
        calls[batch](with_one(value))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (images(8).double(), r"a batch is torch.float64 \(8, 3, 12, 12\): give float32 images"),
        (images(8)[:0], r"a batch has no images, \(0, 3, 12, 12\): leave it out"),
        (images(8)[0], r"a batch is torch.float32 \(3, 12, 12\): give float32 images"),
    ],
)
def test_a_batch_of_another_type_or_empty_is_refused(
    call: Callable[[list[Tensor]], object], odd: Tensor, message: str
) -> None:
    with pytest.raises(BnrecalError, match=message):
        call([images(8), odd])


@pytest.mark.parametrize("batch", ["calibration batch 2", "recalibration batch 2", "batch 2"])
def test_an_empty_batch_is_refused_inside_too(batch: str) -> None:
    with pytest.raises(BnrecalError, match=rf"^{batch} has no images, \(0, 3, 12, 12\): leave it out"):
        INSIDE[batch]([images(8), images(8)[:0]])


def test_a_batch_of_unreadable_images_alone_is_counted() -> None:
    batches = [(images(8), LABELS), (images(8), LABELS - 1)]
    outcome = evaluate({"4T": quantized()}, batches)["4T"]
    assert (outcome.images, outcome.skipped) == (8, 8)


@pytest.mark.parametrize("method", ["ema", "cumulative", "pooled"])
@pytest.mark.parametrize("value", BAD)
def test_what_the_network_makes_of_finite_images_does_not_reach_the_statistics(method: str, value: float) -> None:
    network = tiny()
    with torch.no_grad():
        network.stem.weight[0, 0, 0, 0] = value  # bn1 sees it first
    before = statistics(network)
    with pytest.raises(BnrecalError, match="recalibration batch 1 brings BatchNorm layer bn1 NaN, infinity or values"):
        recalibrate_(network, [images(8)], method=method)
    for name, kept in statistics(network).items():
        assert torch.equal(kept, before[name]), name


def test_a_variance_beyond_float32_does_not_reach_the_statistics() -> None:
    layer = nn.BatchNorm2d(3)
    with pytest.raises(BnrecalError, match="batch 1 brings BatchNorm layer of the network NaN, infinity or values"):
        recalibrate_(layer, [1e30 * images(8)])
    assert torch.equal(layer.running_var, torch.ones(3))  # type: ignore[arg-type]


class Divides(nn.Module):
    """Makes 0 / 0 of an image without a pixel above 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        bright = (x - 2).relu().amax((1, 2, 3), keepdim=True)
        y = self.stem(x).relu() * (bright / bright)
        return self.fc(self.conv2(y).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_quantized_layer_refuses_what_the_network_made() -> None:
    torch.manual_seed(0)
    network = Divides()
    bright = images(8) + 2
    q = bnrecal.quantize(network, [bright], bnrecal.SmtSpec(threads=4))
    assert q(bright).isfinite().all()
    dark = bright.clone()
    dark[5] -= 2
    assert not network(dark).isfinite().all()
    for found in (lambda: q(dark), lambda: bnrecal.evaluate({"4T": q}, [(bright, LABELS), (dark, LABELS)])):
        with pytest.raises(BnrecalError, match="the quantized convolution conv2 gets NaN or infinity, which 8 bits"):
            found()


def test_a_quantized_layer_takes_what_float32_holds_and_no_other_type() -> None:
    q = quantized()
    conv = q.get_submodule("conv2")
    x = images(4)[:, :1].expand(-1, 8, -1, -1)
    assert torch.equal(conv(x.half()), conv(x.half().float()))
    assert conv(x[:0]).shape == (0, 16, 6, 6)
    with pytest.raises(BnrecalError, match=r"the quantized convolution conv2 gets torch.float64 activations: give"):
        conv(x.double())


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("position", [0, 123, -1])
def test_one_bad_value_among_many_is_seen(value: float, position: int) -> None:
    x = torch.randn(5, 7, 11, 13).contiguous(memory_format=torch.channels_last)
    assert all_finite(x)
    x[position % 5, position % 7, position % 11, position % 13] = value
    assert not all_finite(x)


def test_opposite_infinities_are_seen_and_large_numbers_are_finite() -> None:
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))
    assert all_finite(torch.full((100,), 3e38))  # their sum is infinite
    assert all_finite(torch.tensor([], dtype=torch.float32))
    assert all_finite(torch.arange(3))


@pytest.mark.parametrize("value", BAD)
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    network = tiny()
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.bias[0] = value
    with pytest.raises(BnrecalError, match="the float32 network gives logits that are not finite: check the weights"):
        evaluate({"float32": network}, [(images(8), LABELS)])
