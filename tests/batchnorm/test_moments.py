"""Sums that the number of workers cannot change, and what hangs on them: a recalibrated network, bit by bit."""

import numpy as np
import pytest
import torch
from helpers import shipped
from torch import Tensor

from bnrecal.batchnorm.moments import Moments, batch_moments
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.setup import load, prepare
from bnrecal.experiment.variant import Variant
from bnrecal.nbsmt.engines.cpu import channel_sums
from bnrecal.nbsmt.engines.cpu.channel_sums import BLOCK, LANES
from bnrecal.nbsmt.engines.cpu.kernels.channel_sums import moments_kernel

needs_numba = pytest.mark.skipif(moments_kernel() is None, reason="numba is switched off")
SHAPES = [(2, 1), (5, 3), (3, 1, 7, 5), (4, 20, 9, 9), (2, LANES, 5, 5), (7, 130, 16, 16), (3, 2 * BLOCK + 1)]


def batch(shape: tuple[int, ...]) -> Tensor:
    """Values far from 0 as seen by their spread, where a sum of squares about 0 in float32 would have no digit left."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.5 + 1000


@needs_numba
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("compiled", [True, False])
def test_moments_are_those_of_float64(shape: tuple[int, ...], compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(channel_sums, "moments_kernel", lambda: None)
    x = batch(shape)
    values = x.double().movedim(1, 0).flatten(1).numpy()
    found = batch_moments(x)
    assert found.count == values.shape[1]
    assert np.allclose(found.mean, values.mean(1), rtol=1e-14, atol=0)
    assert np.allclose(found.variance, values.var(1), rtol=1e-9, atol=0)
    assert np.allclose(found.unbiased_variance, values.var(1, ddof=1), rtol=1e-9, atol=0)


@needs_numba
@pytest.mark.parametrize("shape", SHAPES)
def test_workers_and_layout_change_no_bit(shape: tuple[int, ...]) -> None:
    x = batch(shape)
    forms = [x, x.contiguous(memory_format=torch.channels_last)] if len(shape) == 4 else [x]
    before = torch.get_num_threads()
    found = []
    try:
        for workers in (1, 2, 5):
            torch.set_num_threads(workers)
            found += [batch_moments(form) for form in forms]
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert np.array_equal(other.mean, found[0].mean)
        assert np.array_equal(other.squares, found[0].squares)


def test_finite_is_what_float32_holds() -> None:
    largest = torch.finfo(torch.float32).max
    beyond = (2 - 2.0**-24) * 2.0**127
    below = float(np.nextafter(beyond, 0))
    rounded = torch.tensor([largest, below, beyond], dtype=torch.float64).float()
    assert rounded.isfinite().tolist() == [True, True, False]
    one = np.ones(2)
    for value, finite in ((largest, True), (below, True), (beyond, False), (np.inf, False), (np.nan, False)):
        values = np.array([1.0, value])
        assert Moments(1, values, one).finite is finite
        assert Moments(1, -values, one).finite is finite
        assert Moments(1, one, values).finite is finite


@torch.no_grad()
def recalibrated_logits(workers: int) -> list[Tensor]:
    """The answers of the shipped MobileNet-v1, calibrated, quantized and recalibrated by so many workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        experiment = prepare(load(shipped.config("smt.threads=4", "recal=true")))
        cell = Variant(4, True)
        network = prepare_variants(experiment, [cell])[cell].network
        return [network(images) for images in experiment.loader.images(experiment.validation, 32)]
    finally:
        torch.set_num_threads(before)


def test_a_recalibrated_network_answers_the_same_with_one_worker_and_with_two() -> None:
    alone = recalibrated_logits(1)
    together = recalibrated_logits(2)
    assert len(alone) == 2
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
