"""Trust in oneDNN's sums comes from a trial."""

import pytest
import torch
import torch.nn.functional as F

from bnrecal.nbsmt.engines.cpu import dense_sparse, onednn
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, OneDnnConv, onednn_exactness, sums_are_exact
from bnrecal.nbsmt.engines.integer_conv import FloatConv
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

needs_onednn = pytest.mark.skipif(onednn_exactness() is Exactness.NONE, reason="oneDNN is not exact or not quick here")
PLAIN = Geometry((1, 1), (1, 1), (1, 1), 1)


def saturating(conv: OneDnnConv, x: torch.Tensor) -> torch.Tensor:
    """What pairs added in 16 bits do, by plain torch."""
    w = conv.weights().double()
    total = torch.zeros(())
    x = F.pad(x.double(), (1, 1, 1, 1))
    for low in range(0, w.shape[1], 2):
        for row in range(w.shape[2]):
            for column in range(w.shape[3]):
                part = w[:, low : low + 2, row : row + 1, column : column + 1]
                seen = x[:, low : low + 2, row : row + x.shape[2] - 2, column : column + x.shape[3] - 2]
                total = total + F.conv2d(seen, part).clamp(-(2**15), 2**15 - 1)
    return total.float()


def saturating_other_pairs(conv: OneDnnConv, x: torch.Tensor) -> torch.Tensor:
    return saturating(OneDnnConv(lambda: conv.weights().roll(1, 1), PLAIN), x.roll(1, 1))


def test_saturating_pairs_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneDnnConv, "sums", saturating)
    sums_are_exact.cache_clear()
    shape, weight = (2, 8, 4, 4), (5, 8, 3, 3)
    assert not sums_are_exact(Exactness.FULL, shape, weight, PLAIN)
    assert sums_are_exact(Exactness.PAIRED, shape, weight, PLAIN)
    monkeypatch.setattr(OneDnnConv, "sums", saturating_other_pairs)
    sums_are_exact.cache_clear()
    assert not sums_are_exact(Exactness.PAIRED, shape, weight, PLAIN)
    sums_are_exact.cache_clear()


def test_a_missing_operator_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> torch.Tensor:
        raise NotImplementedError

    monkeypatch.setattr(OneDnnConv, "sums", missing)
    sums_are_exact.cache_clear()
    assert not sums_are_exact(Exactness.PAIRED, (1, 4, 3, 3), (2, 4, 3, 3), PLAIN)
    sums_are_exact.cache_clear()


@needs_onednn
def test_a_layer_whose_trial_fails_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randint(-128, 128, (8, 16, 3, 3), generator=generator).to(torch.int8)
    x = torch.randint(0, 256, (2, 16, 9, 9), generator=generator).byte()
    quick = PreparedConv2d(w, SmtSpec(4), padding=1)
    found = quick.accumulate(x)
    assert quick.engine_name == "onednn-int8"
    monkeypatch.setattr(dense_sparse, "sums_are_exact", lambda *_: False)
    careful = PreparedConv2d(w, SmtSpec(4), padding=1)
    assert torch.equal(careful.accumulate(x), found)
    assert careful.engine_name == "float32"


@needs_onednn
@pytest.mark.parametrize("zero_point", [0, 128])
def test_pairs_at_the_limit(zero_point: int) -> None:
    for shape, weight, geometry in (
        ((16, 64, 9, 9), (32, 64, 3, 3), PLAIN),
        ((3, 6, 5, 5), (10, 6, 1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
        ((2, 32, 7, 7), (16, 8, 3, 3), Geometry((2, 2), (1, 1), (1, 1), 4)),
    ):
        assert sums_are_exact(Exactness.PAIRED, shape, weight, geometry, zero_point)


@needs_onednn
def test_slow_eight_bit_convolutions_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_is_quick", lambda: False)
    onednn.onednn_trial.cache_clear()
    assert onednn_exactness() is Exactness.NONE
    assert PreparedConv2d(torch.ones(2, 4, 3, 3, dtype=torch.int8), SmtSpec(2)).engine_name == "float32"
    onednn.onednn_trial.cache_clear()


def test_one_sum_that_is_off_by_one_fails_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly(conv: OneDnnConv, x: torch.Tensor) -> torch.Tensor:
        sums = FloatConv(conv.weights(), PLAIN, 255, torch.float64, x.device).accumulate(x).float()
        sums[0, 0, 1, 1] += 1  # of nine million
        return sums

    monkeypatch.setattr(OneDnnConv, "sums", nearly)
    sums_are_exact.cache_clear()
    assert not sums_are_exact(Exactness.FULL, (1, 32, 4, 4), (3, 32, 3, 3), PLAIN)
    sums_are_exact.cache_clear()


@needs_onednn
def test_signed_levels_are_tried_with_their_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def trial(*arguments: object) -> bool:
        tried.append(arguments[-1])
        return False

    monkeypatch.setattr(dense_sparse, "sums_are_exact", trial)
    layer = PreparedConv2d(torch.ones(2, 4, 3, 3, dtype=torch.int8), SmtSpec(1))
    for dtype in (torch.uint8, torch.int8):
        layer.accumulate(torch.ones(1, 4, 3, 3, dtype=dtype))
    assert tried == [0, 128]
