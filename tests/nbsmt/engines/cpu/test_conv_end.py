"""A convolution's end in one pass: against its scalar twin and against torch, to the last bit."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import processors
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines.apply_end import Ending, apply_end_, can_end, ending
from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels
from bnrecal.nbsmt.engines.cpu import conv_end
from bnrecal.nbsmt.engines.cpu.conv_end import alpha_beta, end_
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.cpu.kernels.conv_end import conv_end_ref
from bnrecal.nbsmt.engines.cpu.quantizer import has_slack
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

CPU = torch.device("cpu")
equal_here = pytest.mark.skipif(ending(CPU) is not Ending.TORCHS, reason="no fused end on this processor")
compiled_here = pytest.mark.skipif(not kernels_compile(), reason="numba is switched off")


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal, channels-last where it has four dimensions."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def eighths(*shape: int, seed: int) -> Tensor:
    """Multiples of 1/8 of few bits, so that float64 holds their products and sums exactly."""
    return (random(*shape, seed=seed) * 8).round() / 8


def pixels(x: Tensor) -> Tensor:
    """(pixels, channels) of (N, C, H, W)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


@compiled_here
@pytest.mark.parametrize("block", [16, 16384])
@pytest.mark.parametrize("channels", [1, 5, 16, 24])
@pytest.mark.parametrize("added", [False, True])
def test_kernel_against_its_twin(added: bool, channels: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_end, "BLOCK", block)
    x = eighths(2, channels, 5, 7, seed=1)
    residual = eighths(2, channels, 5, 7, seed=2).contiguous(memory_format=torch.channels_last) if added else None
    end = ConvEnd(eighths(channels, seed=3), eighths(channels, seed=4), -0.5, 1.25, residual)
    rows = None if residual is None else pixels(residual).numpy()
    expected, _ = conv_end_ref(pixels(x).numpy(), end.alpha.numpy(), end.beta.numpy(), rows, (-0.5, 1.25))
    assert (pixels(end_(x, end)).numpy() == expected).all()
    assert end.finite


@compiled_here
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 16, 24])
@pytest.mark.parametrize("added", [False, True])
def test_levels_of_the_kernel_against_its_twin(added: bool, channels: int, signed: bool) -> None:
    step = 2**-7  # of levels, some of which are beyond the limits, and others half-way between two
    x = eighths(2, channels, 5, 7, seed=1)
    residual = (eighths(2, channels, 5, 7, seed=2) / 32).contiguous(memory_format=torch.channels_last)
    rows = pixels(residual).numpy() if added else None
    alpha = eighths(channels, seed=3)
    beta = eighths(channels, seed=4)
    levels = Levels(step, signed)
    limits = (-128, 127) if signed else (0, 255)
    expected = conv_end_ref(pixels(x).numpy(), alpha.numpy(), beta.numpy(), rows, (-0.5, 3.0), 1 / step, limits)
    end = ConvEnd(alpha, beta, -0.5, 3.0, residual if added else None, levels=levels)
    alone = end_(x.clone(memory_format=torch.channels_last), end)
    assert (pixels(alone).numpy() == expected[1]).all()
    end = ConvEnd(alpha, beta, -0.5, 3.0, residual if added else None, beside=levels)
    found = end_(x.clone(memory_format=torch.channels_last), end)
    assert end.made is not None
    assert end.made.dtype == (torch.int8 if signed else torch.uint8)
    assert has_slack(end.made)
    assert (pixels(end.made).numpy() == expected[1]).all()
    assert (pixels(found).numpy() == expected[0]).all()


@equal_here
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("channels", [3, 64, 96])
def test_bits_of_torch(channels: int, workers: int) -> None:
    mean = random(channels, seed=1)
    bias = random(channels, seed=2)
    variance = random(channels, seed=3).abs()
    weight = random(channels, seed=4)
    x = random(4, channels, 15, 17, seed=5)
    residual = random(4, channels, 15, 17, seed=6)
    expected = F.relu(F.batch_norm(x, mean, variance, weight, bias, eps=1e-3) + residual)
    before = torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        alpha, beta = alpha_beta(mean, variance, weight, bias, 1e-3)
        apart = end_(x, ConvEnd(alpha, beta, 0.0, residual=residual), torch.empty_like(x))
        assert torch.equal(apart, expected)
        assert not torch.equal(x, expected)
        in_place = end_(x, ConvEnd(alpha, beta, 0.0, residual=residual.contiguous()))  # a residual of another layout
        assert in_place is x
        assert torch.equal(x, expected)
    finally:
        torch.set_num_threads(before)


@equal_here
@pytest.mark.parametrize(("affine", "biased"), [(False, False), (True, False), (False, True)])
def test_alpha_and_beta_of_a_batchnorm_without_parameters(affine: bool, biased: bool) -> None:
    mean = random(7, seed=1)
    variance = random(7, seed=2).abs()
    weight = random(7, seed=3) if affine else None
    bias = random(7, seed=4) if biased else None
    x = random(2, 7, 3, 3)
    alpha, beta = alpha_beta(mean, variance, weight, bias, 1e-5)
    expected = F.batch_norm(x, mean, variance, weight, bias)
    assert torch.equal(end_(x, ConvEnd(alpha, beta)), expected)


@compiled_here
@pytest.mark.parametrize("place", [0, 16, 37, 74])  # the first vector, a middle one, the rest behind the last
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_and_is_found(bad: float, place: int) -> None:
    x = torch.zeros(1, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    flat = x.permute(0, 2, 3, 1).flatten()
    assert flat.data_ptr() == x.data_ptr()
    flat[place] = bad
    end = ConvEnd(torch.ones(3), torch.zeros(3))
    assert torch.equal(end_(x.clone(), end).isfinite(), x.isfinite())
    assert end.finite is False
    clamped = ConvEnd(torch.ones(3), torch.zeros(3), 0.0, 6.0)
    found = end_(x.clone(), clamped)
    assert torch.equal(found, F.relu6(x)) or (math.isnan(bad) and torch.equal(found.isnan(), x.isnan()))
    assert clamped.finite is not math.isnan(bad)  # ReLU6 makes infinity a number, and NaN stays


@compiled_here
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("channels", [5, 64])
def test_levels_are_those_of_the_quantizer(channels: int, signed: bool) -> None:
    x = random(2, channels, 5, 7, seed=1)
    residual = random(2, channels, 5, 7, seed=2)
    for added in (None, residual):
        end = ConvEnd(random(channels, seed=3), random(channels, seed=4), -1.0, 2.0, added)
        ended = end_(x.clone(memory_format=torch.channels_last), end)
        for step in (0.004, 0.011):  # some levels are beyond the range, or none
            end.levels = Levels(step, signed)
            before = x.clone(memory_format=torch.channels_last)
            found = end_(before, end)
            assert found.dtype == (torch.int8 if signed else torch.uint8)
            assert torch.equal(found.short(), quantize_activation(ended, step, signed).short())
            assert has_slack(found)
            assert torch.equal(before, x)  # nothing but the levels was written
            assert end.finite


@compiled_here
def test_no_levels_of_infinity() -> None:
    x = random(1, 8, 3, 3)
    x[0, 3, 1, 1] = math.inf
    end = ConvEnd(torch.ones(8), torch.zeros(8), levels=Levels(0.1, False))
    found = end_(x.clone(memory_format=torch.channels_last), end)
    assert torch.equal(found, x)
    assert end.finite is False
    beside = ConvEnd(torch.ones(8), torch.zeros(8), beside=Levels(0.1, False))
    assert torch.equal(end_(x.clone(memory_format=torch.channels_last), beside), x)
    assert beside.made is None


@compiled_here
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (20, 1), (20, 2), (10, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_engines_make_the_same_of_activations_and_of_their_levels(
    kernel: int, groups: int, stride: int, signed: bool
) -> None:
    generator = torch.Generator().manual_seed(groups)
    w = torch.randint(-128, 128, (20, 20 // groups, kernel, kernel), generator=generator).to(torch.int8)
    x = random(2, 20, 9, 8, seed=5) * 3
    scale = random(20, seed=6).abs()
    end = ConvEnd(torch.ones(20), torch.zeros(20), levels=Levels(0.05, signed))
    levels = end_(x.clone(memory_format=torch.channels_last), end)
    for threads in (1,) if signed else (1, 2, 4):
        prepared = PreparedConv2d(w, SmtSpec(threads), stride=stride, padding=kernel // 2, groups=groups)
        expected = prepared(x, 0.05, scale, signed=signed)
        kept = levels.clone()
        assert torch.equal(prepared(levels, 0.05, scale, signed=signed), expected)
        assert torch.equal(prepared(levels.contiguous(), 0.05, scale, signed=signed), expected)  # another layout
        assert torch.equal(levels, kept)


@compiled_here
def test_an_empty_batch() -> None:
    x = torch.empty(0, 3, 5, 5)
    assert end_(x, ConvEnd(torch.ones(3), torch.zeros(3))) is x


def test_layouts() -> None:
    x = random(2, 6, 3, 3)
    assert can_end(x)
    assert not can_end(x.contiguous())
    assert not can_end(x[:, :5])
    assert not can_end(x.double())
    assert not can_end(x[0])


@equal_here
def test_a_trial_that_differs_in_one_bit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    own = F.relu6
    monkeypatch.setattr(F, "relu6", lambda x: own(x).nextafter(torch.tensor(7.0)))
    assert not conv_end._is_torchs(16)


PLAIN = """
import torch
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines.apply_end import ending, ending_trouble
print(ending(torch.device("cpu")).value, ending_trouble(torch.device("cpu")))
"""


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ATEN_CPU_CAPABILITY": "default"}, "none torch's BatchNorm rounds otherwise here"),
        ({"NUMBA_DISABLE_JIT": "1"}, "none numba is switched off"),
    ],
)
def test_it_is_not_used_where_bits_would_differ(environment: dict[str, str], words: str) -> None:
    found = processors.run([PLAIN], environment)
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT" or "NUMBA_DISABLE_JIT" in environment:
        assert found.startswith(words)


@equal_here
def test_the_pass_of_its_own_is_the_cpus() -> None:
    x = random(1, 4, 3, 3)
    end = ConvEnd(torch.full((4,), 2.0), torch.ones(4))
    assert torch.equal(apply_end_(x.clone(memory_format=torch.channels_last), end), x * 2 + 1)
