import pytest
import torch
from helpers.nets import images, tiny
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.quantization.calibrate import ConvInfo, calibrate
from bnrecal.quantization.qparams import activation_scale, quantize_weight


def by_name(convs: list[ConvInfo]) -> dict[str, ConvInfo]:
    return {info.name: info for info in convs}


def test_ranges_are_the_mean_and_the_maximum_of_image_maxima() -> None:
    conv = nn.Conv2d(3, 2, 1)
    x = images(7)
    whole = calibrate(conv, [x])[0]
    split = calibrate(conv, [x[:4], x[4:]])[0]
    maxima = x.flatten(1).amax(1).double()
    for info in (whole, split):
        assert info.range("mean_max") == pytest.approx(float(maxima.mean()), rel=1e-12)
        assert info.range("max") == float(maxima.max())
        assert info.images == 7


def test_batches_of_one_image_are_enough() -> None:
    conv = nn.Conv2d(3, 2, 1)
    whole = calibrate(conv, [images(3)])[0]
    single = calibrate(conv, [image[None] for image in images(3)])[0]
    assert (single.images, single.calls, single.macs) == (whole.images, whole.calls, whole.macs) == (3, 1, 2 * 144 * 3)
    assert single.range("mean_max") == pytest.approx(whole.range("mean_max"), rel=1e-12)


def test_a_negative_input_has_the_range_of_its_magnitude() -> None:
    info = calibrate(nn.Conv2d(3, 2, 1), [images(5) - 0.7])[0]
    x = images(5) - 0.7
    assert info.negative
    assert info.range("mean_max") == pytest.approx(float(x.abs().flatten(1).amax(1).double().mean()))
    assert info.range("max") == pytest.approx(float(x.abs().max()))


def test_order_shapes_and_macs() -> None:
    infos = by_name(calibrate(tiny(), [images(4)]))
    assert [info.order for info in infos.values()] == [0, 1, 2, 3]
    assert infos["conv2"].output_shape == (16, 6, 6)
    assert infos["conv2"].macs == 16 * 6 * 6 * 8 * 9
    assert infos["depthwise"].macs == 16 * 6 * 6 * 9
    assert infos["depthwise"].depthwise
    assert not infos["conv2"].depthwise
    assert infos["dilated"].geometry.dilation == (2, 2)


def test_a_convolution_called_twice_counts_twice_and_keeps_one_range_an_image() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.conv(2 * x)  # type: ignore[no-any-return]

    info = calibrate(Twice(), [images(2), images(2, seed=1)])[0]
    both = torch.cat([images(2), images(2, seed=1)])
    assert info.calls == 2
    assert info.macs == 2 * 12 * 12 * 9
    assert info.images == 4
    assert info.range("mean_max") == pytest.approx(2 * float(both.flatten(1).amax(1).double().mean()))


def test_calibration_leaves_the_network_as_it_was() -> None:
    network = tiny()
    expected = network(images(3))
    calibrate(network, [images(3)])
    assert torch.equal(network(images(3)), expected)
    assert "forward" not in vars(network.conv2)


def test_infinite_inputs_and_missing_convolutions_are_errors() -> None:
    class Puts(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            x[1, 2, 3, 4] = self.value
            return x

    for value in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(
            BnrecalError, match=r"^the input of convolution 1 is not finite in float32: check the weights$"
        ):
            calibrate(nn.Sequential(Puts(value), nn.Conv2d(3, 1, 1)), [images(2)])
    with pytest.raises(
        BnrecalError, match=r"^the network called no convolution on the calibration images: nothing to quantize$"
    ):
        calibrate(nn.Flatten(), [images(2)])


def test_weights_reach_minus_128_and_zeros_stay() -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < 0.4] = 0
    weight[3] = 0
    levels, scale = quantize_weight(weight)
    assert levels.dtype == torch.int8
    assert bool((levels[weight == 0] == 0).all())
    assert torch.equal(scale[:3], 2 * weight[:3].abs().flatten(1).amax(1) / 255)
    error = (levels.float() * scale.view(-1, 1, 1, 1) - weight).abs().flatten(1).amax(1)
    assert bool((error <= scale * 0.501).all())
    many = quantize_weight(torch.randn(200, 9, generator=torch.Generator().manual_seed(1)))[0]
    assert (int(many.min()), int(many.max())) == (-128, 127)


def test_activation_scale() -> None:
    assert activation_scale(2.55, signed=False) == pytest.approx(0.01)
    assert activation_scale(1.275, signed=True) == pytest.approx(0.01)
    assert activation_scale(0.0, signed=False) == 1.0
