"""A quantized network never computes with other weights than it shows."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.nets import Tiny, images, tiny
from torch import Tensor, nn

import bnrecal
from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.quantization.convert import threaded_layers
from bnrecal.quantization.intercept import ConvCall

SPEC = bnrecal.SmtSpec(threads=4)
X = images(8)
LABELS = torch.zeros(8, dtype=torch.int64)


def quantized(network: nn.Module) -> nn.Module:
    return bnrecal.quantize(network, [X], SPEC)


def copied(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network)


def pickled(network: nn.Module) -> nn.Module:
    restored: nn.Module = pickle.loads(pickle.dumps(network))
    return restored


def as_it_is(network: nn.Module) -> nn.Module:
    return network


CHANGED = (
    "^the weight of conv2 changed since it was quantized: change it in the float32 network, and quantize that again$"
)
FORMS = [as_it_is, copied, pickled]
DIFFERENT = ["stem.weight", "conv2.weight", "dilated.bias", "bn2.weight", "fc.bias"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", DIFFERENT)
def test_other_parameters_are_refused_before_anything_is_loaded(
    name: str, assign: bool, form: Callable[[nn.Module], nn.Module]
) -> None:
    network = tiny()
    q = form(quantized(network))
    held = {key: value.clone() for key, value in q.state_dict().items()}
    floats = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value.clone() for key, value in q.state_dict().items()}
    state["bn1.running_mean"] += 1
    state[name].flatten()[0] += 1
    with pytest.raises(
        BnrecalError,
        match=f"^{name} of the state_dict is not what this quantized network was made from: load it into the "
        "float32 network, and quantize that again$",
    ):
        q.load_state_dict(state, strict=False, assign=assign)
    for key, value in q.state_dict().items():
        assert torch.equal(value, held[key]), key
    for key, value in network.state_dict().items():
        assert torch.equal(value, floats[key]), key


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("assign", [False, True])
def test_recalibrated_statistics_load_back_to_the_bit(assign: bool, form: Callable[[nn.Module], nn.Module]) -> None:
    network = tiny()
    recalibrated = bnrecal.recalibrate_(quantized(network), [images(16, 1)])
    fresh = form(quantized(network))
    with torch.no_grad():
        assert not torch.equal(fresh(X), recalibrated(X))
        fresh.load_state_dict(copy.deepcopy(recalibrated.state_dict()), assign=assign)
        assert torch.equal(fresh(X), recalibrated(X))
        assert torch.equal(bnrecal.recalibrate_(fresh, [X])(X), bnrecal.recalibrate_(recalibrated, [X])(X))


def test_inside_another_module_the_name_is_whole() -> None:
    outer = nn.Sequential(nn.Identity(), quantized(tiny()))
    with pytest.raises(BnrecalError, match=r"^1\.stem\.weight of the state_dict"):
        outer.load_state_dict({f"1.{key}": value for key, value in tiny(seed=1).state_dict().items()})


def test_other_shapes_and_missing_names_are_what_pytorch_or_the_check_say() -> None:
    q = quantized(tiny())
    with pytest.raises(BnrecalError, match=r"^stem\.weight of the state_dict"):
        q.load_state_dict({"stem.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        q.load_state_dict({})


def times(network: Tiny) -> None:
    with torch.no_grad():
        network.conv2.weight.mul_(1.5)


def replaced(network: Tiny) -> None:
    network.conv2.weight = nn.Parameter(2 * network.conv2.weight.detach())


def loaded(network: Tiny) -> None:
    network.load_state_dict(tiny(seed=1).state_dict())


def trained(network: Tiny) -> None:
    network(X).sum().backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()


def other_storage(network: Tiny) -> None:
    network.conv2.weight.data = network.conv2.weight.data * 1.5


NOTED = [times, loaded, trained, other_storage]  # of the float32 network, whose parameters are the quantized one's too


@pytest.mark.parametrize("change", NOTED)
@pytest.mark.parametrize("called", [False, True])
def test_a_change_of_the_weight_is_refused_at_the_next_call(change: Callable[[Tiny], None], called: bool) -> None:
    network = tiny()
    q = quantized(network)
    if called:
        q(X)
    change(network)
    with pytest.raises(BnrecalError, match=CHANGED):
        q(X)


def test_a_later_call_is_looked_at_as_the_first_is() -> None:
    q = quantized(tiny())
    q(X)
    broken = X.clone()
    broken[2, 1, 3, 4] = torch.nan
    with pytest.raises(BnrecalError, match="conv2 gets NaN or infinity, which 8 bits would hide"):
        q(broken)


def test_other_types_and_other_weights_than_were_quantized_are_refused() -> None:
    layer = threaded_layers(quantized(tiny()))["conv2"]
    x = torch.rand(2, 8, 6, 6)
    geometry = Geometry((2, 2), (1, 1), (1, 1), 1)
    call = ConvCall(x.double(), torch.rand(16, 8, 3, 3), None, geometry)
    message = r"^the quantized convolution conv2 gets torch.float64 activations: give the network float32 images$"
    with pytest.raises(BnrecalError, match=message):
        layer(call)
    message = (
        r"^the convolution conv2 is called with a weight of shape \(16, 8, 1, 1\), calibrated with \(16, 8, 3, 3\): "
        r"leave it in float32 with quant.skip=\[conv2\]$"
    )
    with pytest.raises(BnrecalError, match=message):
        layer(replace(call, x=x, weight=torch.rand(16, 8, 1, 1)))


def test_a_weight_that_is_put_in_its_place_is_refused() -> None:
    q = quantized(tiny())
    assert isinstance(q, Tiny)
    replaced(q)
    with pytest.raises(BnrecalError, match=CHANGED):
        q(X)


CALLS: list[Callable[[nn.Module], object]] = [
    lambda q: bnrecal.evaluate({"4T": q}, [(X, LABELS)]),
    lambda q: bnrecal.recalibrate_(q, [X]),
    lambda q: bnrecal.layer_table(q, [X]),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_write_that_pytorch_does_not_note_is_refused_by_every_call(call: Callable[[nn.Module], object]) -> None:
    network = tiny()
    q = quantized(network)
    q(X)
    network.conv2.weight.data[3, 2, 1, 0] += 1
    with pytest.raises(BnrecalError, match=CHANGED):
        call(q)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_weight_elsewhere_is_compared_once_and_taken(form: Callable[[nn.Module], nn.Module]) -> None:
    network = tiny()
    q = quantized(network)
    with torch.no_grad():
        before = q(X)
        network.load_state_dict(tiny().state_dict())  # noted as a write, of the same numbers
        other = form(q).to(memory_format=torch.channels_last)
        assert torch.equal(other(X), before)
        assert torch.equal(other(X), before)
    layer = threaded_layers(other)["conv2"]
    conv = other.get_submodule("conv2")
    assert isinstance(conv.weight, Tensor)
    assert layer._quantized == (conv.weight.data_ptr(), conv.weight._version)


def test_a_network_made_in_inference_mode_is_quantized_too() -> None:
    with torch.inference_mode():
        network = tiny()
        assert torch.equal(quantized(network)(X), quantized(tiny())(X))


class Standardized(nn.Conv2d):
    """Makes its weight anew for each call."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_a_weight_that_is_made_for_each_call_is_no_change() -> None:
    network = tiny()
    network.conv2 = Standardized(8, 16, 3, stride=2, padding=1)
    q = quantized(network)
    with torch.no_grad():
        assert torch.equal(q(X), q(X))
    bnrecal.evaluate({"4T": q}, [(X, LABELS)])
