"""A convolution's end and the max-pooling behind it in one pass: against the scalar twin and torch, to the last bit."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels, MaxPool
from bnrecal.nbsmt.engines.cpu import pooled_end
from bnrecal.nbsmt.engines.cpu.conv_end import end_
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.cpu.kernels.pooled_end import max_pool_ref
from bnrecal.nbsmt.engines.cpu.pooled_end import end_pooled

pytestmark = pytest.mark.skipif(not kernels_compile(), reason="numba is switched off")
POOLS = (
    MaxPool((3, 3), (2, 2), (1, 1)),
    MaxPool((2, 2), (2, 2), (0, 0)),
    MaxPool((3, 2), (1, 3), (1, 0)),
    MaxPool((1, 3), (2, 1), (0, 1)),
)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal, channels-last where it has four dimensions."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def an_end(lowest: float = 0.0, highest: float = math.inf) -> ConvEnd:
    return ConvEnd(random(64, seed=1), random(64, seed=2), lowest, highest)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("band", [1, 3, 8])
@pytest.mark.parametrize("pool", POOLS)
def test_pooled_as_torch_pools(pool: MaxPool, band: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_end, "BAND", band)
    y = random(2, 64, 9, 13)
    before = y.clone()
    threads = torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        found = end_pooled(y, an_end(), pool)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(y, before)
    expected = F.max_pool2d(end_(y, an_end()), pool.kernel, pool.stride, pool.padding)
    assert found is not None
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))  # signs of zeros too
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("pool", POOLS)
def test_the_kernel_against_its_twin(pool: MaxPool) -> None:
    y = random(1, 64, 5, 6)
    found = end_pooled(y, an_end(-math.inf), pool)
    ended = end_(y, an_end(-math.inf))[0].permute(1, 2, 0).numpy()
    assert found is not None
    assert (found[0].permute(1, 2, 0).numpy() == max_pool_ref(ended, pool.kernel, pool.stride, pool.padding)).all()


@pytest.mark.parametrize("signed", [False, True])
def test_levels_alone_and_beside(signed: bool) -> None:
    pool = POOLS[0]
    y = random(2, 128, 8, 10)
    alpha = random(128, seed=1)
    beta = random(128, seed=2)
    expected = end_pooled(y, ConvEnd(alpha, beta, 0.0, 6.0), pool)
    assert expected is not None
    for step in (0.004, 0.05):
        levels = Levels(step, signed)
        alone = end_pooled(y, ConvEnd(alpha, beta, 0.0, 6.0, levels=levels), pool)
        end = ConvEnd(alpha, beta, 0.0, 6.0, beside=levels)
        both = end_pooled(y, end, pool)
        wanted = quantize_activation(expected, step, signed)
        for made in (alone, end.made):
            assert made is not None
            assert made.dtype == (torch.int8 if signed else torch.uint8)
            assert torch.equal(made.short(), wanted.short())
        assert both is not None
        assert torch.equal(both, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_to_torch(bad: float) -> None:
    y = random(1, 64, 6, 6)
    y[0, 5, 5, 3] = bad
    end = ConvEnd(torch.ones(64), torch.zeros(64), beside=Levels(0.1, False))
    assert end_pooled(y, end, POOLS[0]) is None
    assert end.finite is False
    assert end.made is None


def test_what_one_pass_cannot_do() -> None:
    end = ConvEnd(torch.ones(40), torch.zeros(40))
    assert end_pooled(random(1, 40, 6, 6), end, POOLS[0]) is None  # channels
    assert end_pooled(random(1, 64, 2, 6)[:, :, :1], an_end(), POOLS[1]) is None  # the window does not fit
    assert end_pooled(random(1, 64, 6, 6)[:0], an_end(), POOLS[0]) is None
