"""A batch in pieces, and layers without sparse weights, which need neither pieces nor the sparse kernel."""

from typing import Any

import pytest
import torch

from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels
from bnrecal.nbsmt.engines.cpu import dense_sparse
from bnrecal.nbsmt.engines.cpu.conv_end import end_
from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine, kernels_compile
from bnrecal.nbsmt.engines.cpu.sparse import SparseSums
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

pytestmark = pytest.mark.skipif(not kernels_compile(), reason="numba is switched off")


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("biased", [False, True])
def test_no_sparse_kernel_without_sparse_weights(threads: int, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(threads)
    w = torch.randint(1, 60, (10, 8, 3, 3), generator=generator)  # no pair beyond 16 bits, no partner missing
    w = (w * torch.where(torch.rand(w.shape, generator=generator) < 0.5, -1, 1)).to(torch.int8)
    scale = torch.rand(10, generator=generator) / 100
    bias = torch.randn(10, generator=generator) if biased else None
    x = torch.rand(6, 8, 9, 7, generator=generator) * 300
    plain = PreparedConv2d(w, SmtSpec(threads), padding=1, engine="float64")
    sums = plain.accumulate(x.round().clamp(0, 255).byte()).float()
    expected = sums * scale.view(1, -1, 1, 1)
    if bias is not None:
        expected = expected + bias.view(1, -1, 1, 1)
    prepared = PreparedConv2d(w, SmtSpec(threads), padding=1)
    assert isinstance(prepared.engine, DenseSparseEngine)
    assert not prepared.engine.entries

    def forbidden(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(DenseSparseEngine, "_sparse_sums_for", forbidden)
    monkeypatch.setattr(dense_sparse, "PIECE_BYTES", 1)
    assert torch.equal(prepared(x, 1.0, scale, bias), expected)
    # divided all the same where the operands of a batch take too much memory
    one_image = 8 * 9 * 7 * (1 + len(prepared.engine.operands))
    monkeypatch.setattr(dense_sparse, "WHOLE_BYTES", 2 * one_image)
    assert [part.stop for part in prepared.engine._slices(x)] == [2, 4, 6]
    assert torch.equal(prepared(x, 1.0, scale, bias), expected)


@pytest.mark.parametrize(
    "filters", [10, 150]
)  # fewer than the sparse kernel ends itself, and more than it does at once
@pytest.mark.parametrize("levels", [None, Levels(0.02, False), Levels(0.02, True)])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("threads", [1, 4])
def test_ends_of_pieces_are_the_ends_of_the_whole(
    threads: int, added: bool, levels: Levels | None, filters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(threads)
    w = torch.randint(-128, 128, (filters, 8, 3, 3), generator=generator).to(torch.int8)
    scale = torch.rand(filters, generator=generator) / 1000
    x = torch.rand(6, 8, 9, 7, generator=generator) * 300
    residual = torch.randn(6, filters, 9, 7, generator=generator).contiguous(memory_format=torch.channels_last)
    prepared = PreparedConv2d(w, SmtSpec(threads), padding=1)

    def end(beside: Levels | None = None) -> ConvEnd:
        alone = levels if beside is None else None
        return ConvEnd(scale + 1, scale - 1, 0.0, 6.0, residual if added else None, alone, beside)

    def engine_ends(end: ConvEnd) -> torch.Tensor | None:
        return prepared.engine.convolve_to_end(x, 1.0, scale, None, end)

    convolved = prepared(x, 1.0, scale).contiguous(memory_format=torch.channels_last)
    floats = end_(convolved.clone(memory_format=torch.channels_last), end(Levels(1.0, False)))
    expected = end_(convolved, end())
    monkeypatch.setattr(dense_sparse, "PIECE_BYTES", 1)
    monkeypatch.setattr(dense_sparse, "ENDED_BYTES", 2 * 4 * filters * 9 * 7)
    own = end()
    found = engine_ends(own)
    assert found is not None
    assert own.finite
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    if levels is not None:
        both = end(levels)
        found = engine_ends(both)
        assert found is not None
        assert torch.equal(found, floats)
        assert both.made is not None
        assert torch.equal(both.made, expected)
    # a piece that is not finite leaves the whole without levels
    scale[3] = float("inf")
    own = end()
    assert (engine_ends(own) is None) == (levels is not None)
    both = end(Levels(1.0, False))
    assert engine_ends(both) is not None
    assert (both.made is None) == (not both.finite)


def test_sums_that_float32_may_have_rounded_are_ended_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.full((16, 900, 8, 8), 127, dtype=torch.int8)
    w[:, ::2] -= 1  # sums that are no multiples of a power of two
    w[:, :2, :2] = 0
    x = torch.full((1, 900, 8, 8), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    scale = torch.full((16,), 2.0**-30)
    prepared = PreparedConv2d(w, SmtSpec(4))
    sums = prepared.accumulate(x)
    assert int(sums.abs().max()) >= 1 << 24
    assert isinstance(prepared.engine, DenseSparseEngine)
    assert prepared.engine.entries
    runs: list[bool] = []
    own = SparseSums.__call__

    def noted(self: SparseSums, *args: Any) -> None:
        runs.append(False)
        own(self, *args)
        runs[-1] = True

    monkeypatch.setattr(SparseSums, "__call__", noted)
    found = prepared.engine.convolve_to_end(x, 1.0, scale, None, ConvEnd(torch.ones(16), torch.zeros(16)))
    assert found is not None
    assert torch.equal(found, sums.float() * 2.0**-30)
    assert runs in ([False, True], [True])  # float32 sums of another engine than oneDNN's are never rounded
    if prepared.engine_name == "onednn-int8":
        assert runs == [False, True]
