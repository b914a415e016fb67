"""What could go wrong in an engine: large sums, zeros of every share, rounding libraries."""

import pytest
import torch
from helpers.nbsmt_engines import check_on_every_engine
from helpers.smt_cases import integers

from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine
from bnrecal.nbsmt.engines.torch_engine import TorchEngine
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES


def test_kernels_too_large_for_float32_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.full((1, 1, 23, 23), -128, dtype=torch.int8)
    x = torch.full((1, 1, 23, 23), 255, dtype=torch.uint8)
    assert PreparedConv2d(w, SmtSpec(1)).accumulate(x).item() == -255 * 128 * 529
    with pytest.raises(ValueError, match="float32 cannot hold"):
        PreparedConv2d(w, SmtSpec(1), engine="float32")
    monkeypatch.setattr("bnrecal.nbsmt.engines.cpu.dense_sparse.kernels_compile", lambda: False)
    monkeypatch.setattr("bnrecal.nbsmt.engines.ENGINES", (DenseSparseEngine, TorchEngine))
    plain = PreparedConv2d(w, SmtSpec(1))
    assert plain.engine_name == "float64"
    assert plain.accumulate(x).item() == -255 * 128 * 529
    with pytest.raises(ValueError, match="float32 cannot hold"):
        PreparedConv2d(w, SmtSpec(1), engine="float32")


@pytest.mark.parametrize("zeros", [0.0, 0.02, 0.4, 0.95])
@pytest.mark.parametrize("policy", POLICIES)
def test_any_share_of_zeros_equals_the_golden_model(policy: str, zeros: float) -> None:
    x = integers((1, 64, 3, 4), 0, 256, 0.3, 0.3, 11).to(torch.uint8)
    w = integers((9, 64, 2, 2), -128, 128, zeros, 0.3, 12).to(torch.int8)
    w[0] = torch.where(torch.rand(w[0].shape, generator=torch.Generator().manual_seed(13)) < zeros, 0, -128)
    w[1] = w[0].clamp(max=-1).neg().clamp(max=127)
    geometry = {"stride": (1, 1), "padding": (1, 0), "dilation": (1, 1)}
    for threads in (2, 4):
        check_on_every_engine((x, w, geometry, 1), SmtSpec(threads, policy))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # which flags() warns of
@pytest.mark.parametrize("threads", [1, 4])
def test_float32_is_exact_where_nnpack_would_answer(threads: int) -> None:
    generator = torch.Generator().manual_seed(14)
    x = torch.randint(0, 256, (16, 16, 20, 20), generator=generator).to(torch.uint8)
    w = torch.randint(-128, 128, (16, 16, 3, 3), generator=generator).to(torch.int8)
    wanted = PreparedConv2d(w, SmtSpec(threads), padding=1, engine="float64").accumulate(x)
    with torch.backends.mkldnn.flags(enabled=False):
        found = PreparedConv2d(w, SmtSpec(threads), padding=1, engine="float32").accumulate(x)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_plain_form_gives_the_same_floats(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randint(-128, 128, (12, 16, 3, 3), generator=generator).to(torch.int8)
    x = torch.rand(3, 16, 9, 9, generator=generator)
    scale = torch.rand(12, generator=generator)
    bias = torch.randn(12, generator=generator)
    quick = PreparedConv2d(w, SmtSpec(threads), padding=1)(x, 1 / 300, scale, bias)
    monkeypatch.setattr("bnrecal.nbsmt.engines.cpu.dense_sparse.kernels_compile", lambda: False)
    monkeypatch.setattr("bnrecal.nbsmt.engines.ENGINES", (DenseSparseEngine, TorchEngine))
    plain = PreparedConv2d(w, SmtSpec(threads), padding=1)
    assert isinstance(plain.engine, TorchEngine)
    assert torch.equal(plain(x, 1 / 300, scale, bias), quick)
