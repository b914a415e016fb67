"""What follows a convolution, in the kernels that convolve and alone: run by `test_interpreter.py` as the other cases.

The reference is torch's BatchNorm, addition and clamp on a processor, and its quantizer, one after the other.
"""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from helpers import exact_fma, typed_store
from helpers.nested_kernels import patched_once  # noqa: F401 (a fixture of all cases)
from helpers.smt_cases import Layer, layers, specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime import interpreter

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines.apply_end import Ending, alpha_beta, apply_end_, ending
from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels
from bnrecal.nbsmt.engines.gpu import conv_end as on_gpu
from bnrecal.nbsmt.engines.gpu import triton_engine
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

typed_store.install()
CLAMPS = ((-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0))
CPU = torch.device("cpu")
Geometry = dict[str, tuple[int, int]]
BORDERED: Geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
torchs_here = pytest.mark.skipif(ending(CPU) is not Ending.TORCHS, reason="no fused end on this processor")


@pytest.fixture(autouse=True, scope="module")
def _multiply_and_add_rounds_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpreterBuilder, "create_fma", exact_fma.create_fma)
        yield


def random_norm(channels: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    mean, weight, bias = (torch.randn(channels, generator=generator) for _ in range(3))
    return mean, torch.rand(channels, generator=generator) + 0.1, weight, bias


def ended_by_torch(y: Tensor, norm: tuple[Tensor, ...], clamp: tuple[float, float], residual: Tensor | None) -> Tensor:
    """BatchNorm, addition, ReLU or ReLU6, each as an operation of its own."""
    mean, variance, weight, bias = norm
    y = F.batch_norm(y, mean, variance, weight, bias)
    y = y if residual is None else y + residual
    if clamp[0] < 0:
        return y
    return F.relu(y) if math.isinf(clamp[1]) else F.relu6(y)


def prepare(w: Tensor, spec: SmtSpec, groups: int, geometry: Geometry) -> tuple[PreparedConv2d, PreparedConv2d]:
    """The layer by Triton, and by what the CPU takes."""
    stride, padding, dilation = geometry["stride"], geometry["padding"], geometry["dilation"]
    by_triton = PreparedConv2d(
        w, spec, stride=stride, padding=padding, dilation=dilation, groups=groups, engine="triton-int8"
    )
    return by_triton, PreparedConv2d(w, spec, stride=stride, padding=padding, dilation=dilation, groups=groups)


def check(prepared: tuple[PreparedConv2d, PreparedConv2d], x: Tensor, how: dict[str, bool], clamp: int) -> None:
    """Compare a layer by Triton, ended in its kernel, with one by the CPU's engine, ended by torch."""
    by_triton, on_cpu = prepared
    filters = len(by_triton.weight)
    generator = torch.Generator().manual_seed(1)
    scale = torch.rand(filters, generator=generator) / 5000
    bias = torch.randn(filters, generator=generator) if how["bias"] else None
    y = on_cpu(x, 0.05, scale, bias)
    norm = random_norm(filters, 2)
    residual = torch.randn(y.shape, generator=generator) if how["residual"] else None
    expected = ended_by_torch(y, norm, CLAMPS[clamp], residual)
    end = ConvEnd(*alpha_beta(*norm, 1e-5), *CLAMPS[clamp], residual)
    assert torch.equal(by_triton(x, 0.05, scale, bias, end=end), expected)
    if how["signed"] or CLAMPS[clamp][0] == 0:
        end.levels = Levels(0.02, how["signed"])
        found = by_triton(x, 0.05, scale, bias, end=end)
        assert found.dtype == (torch.int8 if how["signed"] else torch.uint8)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found, quantize_activation(expected, 0.02, how["signed"]))


HOW = st.fixed_dictionaries({"bias": st.booleans(), "residual": st.booleans(), "signed": st.booleans()})


@torchs_here
@settings(max_examples=20)
@given(layers(), specs(), HOW, st.integers(0, 2))
def test_any_layer_is_ended_to_the_bits_of_torch(layer: Layer, spec: SmtSpec, how: dict[str, bool], clamp: int) -> None:
    x, w, geometry, groups = layer
    spec = SmtSpec(spec.threads, spec.policy, spec.sparsity, spec.rounding)
    check(prepare(w, spec, groups, geometry), x.float() * 0.05, how, clamp)


@torchs_here
@pytest.mark.parametrize(("threads", "clamps"), [(1, [0, 1, 2]), (4, [1])])  # the end is the same whatever is summed
@pytest.mark.parametrize(("channels", "filters", "groups"), [(64, 34, 1), (24, 18, 6), (20, 20, 20), (3, 8, 1)])
def test_wide_grouped_and_depthwise_layers(
    channels: int, filters: int, groups: int, threads: int, clamps: list[int]
) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, 4, 5, generator=generator) * 3
    w = torch.randint(-128, 128, (filters, channels // groups, 3, 3), generator=generator).to(torch.int8)
    prepared = prepare(w, SmtSpec(threads), groups, BORDERED)
    for clamp in clamps:
        check(prepared, x, {"bias": clamp == 1, "residual": clamp != 1, "signed": clamp == 0}, clamp)


@torchs_here
def test_pieces_of_a_batch_get_their_own_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_engine, "LARGEST_INDEX", 2 * 8 * 7)  # two bordered images of 6 x 5 pixels
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(5, 16, 6, 5, generator=generator)
    w = torch.randint(-128, 128, (8, 16, 3, 3), generator=generator).to(torch.int8)
    check(prepare(w, SmtSpec(4), 1, BORDERED), x, {"bias": False, "residual": True, "signed": False}, 1)


@torchs_here
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(("channels", "groups"), [(64, 1), (24, 1), (3, 1), (20, 20)])
def test_a_layer_makes_the_same_of_activations_and_of_their_levels(channels: int, groups: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, channels, 5, 6, generator=generator) * 3
    w = torch.randint(-128, 128, (20, channels // groups, 3, 3), generator=generator).to(torch.int8)
    scale = torch.rand(20, generator=generator)
    prepared = PreparedConv2d(w, SmtSpec(threads), padding=1, groups=groups, engine="triton-int8")
    for signed in (False, True) if threads == 1 else (False,):
        expected = prepared(x, 0.05, scale, signed=signed)
        assert torch.equal(prepared(quantize_activation(x, 0.05, signed), 0.05, scale, signed=signed), expected)


@torchs_here
@pytest.mark.parametrize("channels", [1, 3, 48])
@pytest.mark.parametrize("added", [False, True])
def test_a_pass_of_its_own(added: bool, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "BLOCK", 256)  # several programs
    generator = torch.Generator().manual_seed(7)
    shape = (2, channels, 5, 7)
    x, residual = (torch.randn(shape, generator=generator) for _ in range(2))
    x = x.contiguous(memory_format=torch.channels_last)
    norm = random_norm(channels, 8)
    for clamp in CLAMPS:
        expected = ended_by_torch(x, norm, clamp, residual if added else None)
        end = ConvEnd(*alpha_beta(*norm, 1e-5), *clamp, residual if added else None)
        kept = x.clone(memory_format=torch.preserve_format)
        target = torch.empty_like(x)
        assert on_gpu.end_(x, end, target) is target
        assert torch.equal(target, expected)
        assert torch.equal(x, kept)
        assert on_gpu.end_(kept, end) is kept
        assert torch.equal(kept, expected)
        for signed in (False, True):
            end.levels = Levels(0.03, signed)
            assert torch.equal(on_gpu.end_(x, end), quantize_activation(expected, 0.03, signed))


@torchs_here
def test_nan_stays_and_infinity_is_clamped() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.5, 7.0]).view(5, 1, 1, 1)
    end = ConvEnd(torch.ones(1), torch.zeros(1), 0.0, 6.0)
    found = on_gpu.end_(x, end, torch.empty_like(x)).flatten().tolist()
    assert math.isnan(found[0])
    assert found[1:] == [6.0, 0.0, 0.0, 6.0]
    end.levels = Levels(0.5, False)
    assert on_gpu.end_(x, end).flatten().tolist() == [0, 12, 0, 0, 12]


def test_an_empty_batch() -> None:
    x = torch.empty(0, 3, 5, 5)
    assert on_gpu.end_(x, ConvEnd(torch.ones(3), torch.zeros(3))) is x


def test_a_multiply_and_add_that_rounds_twice_is_found() -> None:
    a = torch.tensor([1 + 2.0**-12])
    x = a.view(1, 1, 1, 1)
    found = on_gpu.end_(x, ConvEnd(a, torch.tensor([2.0**-60])), torch.empty_like(x))
    assert float(found) == 1 + 2.0**-11 + 2.0**-23
    assert torch.equal(apply_end_(x, ConvEnd(a, torch.tensor([2.0**-60])), torch.empty_like(x)), found)
