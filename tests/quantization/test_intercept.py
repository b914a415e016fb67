import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from helpers.nets import SameConv2d, images, tiny
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.intercept import ConvCall, Handler, attach, attached, conv_modules, no_stray_convolutions
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d


def negate(call: ConvCall) -> Tensor:
    return -call.run()


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding", [1, "same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_the_handler_sees_what_the_module_would_have_computed(padding: int | str, kernel: int) -> None:
    conv = nn.Conv2d(3, 4, kernel, padding=padding)
    x = images(2)
    expected = conv(x)
    with attached(conv, {"": ConvCall.run}):
        assert torch.allclose(conv(x), expected, atol=1e-6)
    assert torch.equal(conv(x), expected)


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_padding_modes_stay(mode: Literal["reflect", "circular", "replicate"]) -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
    expected = conv(images(2))
    with attached(conv, {"": negate}):
        assert torch.allclose(conv(images(2)), -expected)


def test_subclass_keeps_its_own_padding() -> None:
    conv = SameConv2d(3, 4, 2)
    expected = conv(images(2))
    with attached(conv, {"": negate}):
        assert torch.allclose(conv(images(2)), -expected)


def test_shared_listed_and_renamed_references_are_all_answered() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 3, 1)
            self.two = self.one
            self.hidden = [self.one]

        def forward(self, x: Tensor) -> Tensor:
            call: Callable[[Tensor], Tensor] = getattr(self, "o" + "ne")
            return call(self.two(self.hidden[0](x)))

    network = Shared()
    calls = []

    def count(call: ConvCall) -> Tensor:
        calls.append(call)
        return call.run()

    with attached(network, {"one": count}):
        network(images(1))
    assert list(conv_modules(network)) == ["one"]
    assert len(calls) == 3


def test_a_copy_answers_for_itself() -> None:
    network = tiny()
    attach(network, {"conv2": negate})
    twin = copy.deepcopy(network)
    assert twin.conv2.forward.conv is twin.conv2  # type: ignore[attr-defined]
    assert torch.equal(twin(images(2)), network(images(2)))


def test_a_module_without_exactly_one_conv_call_is_named() -> None:
    class Twice(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + super().forward(input)

    network = nn.Sequential(nn.Conv2d(3, 3, 1), Twice(3, 3, 1))
    with pytest.raises(
        BnrecalError,
        match=r"^the convolution 1 \(Twice\) makes 2 conv2d calls in one forward, "
        r"not 1, and cannot be quantized: leave it in float32 with quant.skip=\[1\]$",
    ):
        calibrate(network, [images(2)])


@pytest.mark.parametrize("dimensions", [1, 3])
def test_other_convolutions_are_never_silently_float(dimensions: int, caplog: pytest.LogCaptureFixture) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.other = nn.Conv1d(3, 3, 1) if dimensions == 1 else nn.Conv3d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.other(x.flatten(2) if dimensions == 1 else x.unsqueeze(-1))  # type: ignore[no-any-return]

    with pytest.raises(
        BnrecalError,
        match=f"^the network calls conv{dimensions}d with the weight other.weight "
        r"outside any nn.Conv2d, which cannot be quantized: make it an nn.Conv2d, or leave it in float32 with "
        r"quant.skip=\[other\]$",
    ):
        calibrate(Other(), [images(2)])
    assert len(calibrate(Other(), [images(2)], keep_float=lambda name: name == "other")) == 1
    assert caplog.messages == [
        f"conv{dimensions}d with the weight other.weight stays float32 and outside the figures: neither speedup nor "
        "cycles count its multiply-accumulates"
    ]


def test_a_weight_that_is_given_by_its_name_is_named() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.other = nn.ConvTranspose2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.conv_transpose2d(self.first(x), weight=self.other.weight)

    with pytest.raises(BnrecalError, match=r"^the network calls conv_transpose2d with the weight other.weight outside"):
        calibrate(ByName(), [images(2)])


def test_a_functional_convolution_is_named() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.weight = nn.Parameter(torch.rand(3, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(self.first(x), self.weight)

    with pytest.raises(BnrecalError, match="calls conv2d with the weight weight"):
        calibrate(Functional(), [images(2)])


def test_sites_inside_the_stray_check_are_no_strays() -> None:
    network = tiny()
    handlers: dict[str, Handler] = dict.fromkeys(conv_modules(network), ConvCall.run)
    with attached(network, handlers), no_stray_convolutions(network, lambda _: False):
        network(images(2))


def test_a_printed_network_says_what_computes_its_convolutions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    plain = repr(network)
    convs = calibrate(network, [images(2)])
    threaded = NBSMTConv2d(replace(convs[1], name="1"), SmtSpec(4), signed=False, act_range="max")
    signed = NBSMTConv2d(replace(convs[1], name="1"), SmtSpec(1), signed=True, act_range="max")
    with attached(network, {"0": negate, "1": threaded}):
        first, second = repr(network).splitlines()[1:3]
        assert first == plain.splitlines()[1]  # a handler that has nothing to say
        assert second.endswith(f"stride=(1, 1), 8-bit, threads=4, policy=A, scale={threaded.input_scale:.3g})")
    with attached(network, {"1": signed}):
        assert f"stride=(1, 1), 8-bit signed, threads=1, scale={signed.input_scale:.3g})" in repr(network)
    one = NBSMTConv2d(convs[1], SmtSpec(1), signed=False, act_range="max")
    assert one.describe() == f"8-bit, threads=1, scale={one.input_scale:.3g}"
    assert repr(network) == plain


def test_a_pickled_convolution_leaves_its_packed_form_behind_and_computes_the_same() -> None:
    conv = nn.Conv2d(3, 4, 1)
    layer = NBSMTConv2d(calibrate(conv, [images(2)])[0], SmtSpec(2), signed=False, act_range="max")
    with attached(conv, {"": layer}):
        expected = conv(images(2))
    assert layer.engine
    twin = pickle.loads(pickle.dumps(layer))
    assert twin.engine == ""
    with attached(conv, {"": twin}):
        assert torch.equal(conv(images(2)), expected)


def test_arguments_by_name_reach_the_handler() -> None:
    class ByName(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, weight=self.weight, bias=self.bias, stride=2, padding=1, dilation=(1, 2), groups=3)

    conv = ByName(3, 6, 3, groups=3)
    expected = conv(images(2))
    with attached(conv, {"": negate}):
        assert torch.equal(conv(images(2)), -expected)


def test_what_a_module_does_not_say_is_as_in_torch() -> None:
    class Plain(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, self.weight)

    conv = Plain(3, 6, 3, stride=2, padding=2, dilation=2)
    seen: list[ConvCall] = []

    def kept(call: ConvCall) -> Tensor:
        seen.append(call)
        return -call.run()

    expected = conv(images(2))
    with attached(conv, {"": kept}):
        assert torch.equal(conv(images(2)), -expected)
    assert seen[0].geometry == Geometry((1, 1), (0, 0), (1, 1), 1)
    assert (seen[0].bias, seen[0].end, seen[0].checked) == (None, None, False)


def test_an_image_without_its_batch_is_reported_with_its_shape() -> None:
    with pytest.raises(
        BnrecalError,
        match=r"^conv2d got an input of shape \(3, 12, 12\): only batches \(N, C, H, W\) can be quantized$",
    ):
        calibrate(nn.Conv2d(3, 4, 1), [images(1)[0]])
