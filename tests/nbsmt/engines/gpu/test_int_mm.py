"""The fallback for older GPUs, which the CPU can run too, and who runs where."""

from dataclasses import replace

import pytest
import torch
from helpers.smt_cases import Layer, expected, layers, specs
from hypothesis import given, settings

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines import choose_engine
from bnrecal.nbsmt.engines.engine import ConvLayer, Engine
from bnrecal.nbsmt.engines.gpu import choose, int_mm
from bnrecal.nbsmt.engines.torch_engine import TorchEngine
from bnrecal.nbsmt.geometry import pointwise
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@settings(max_examples=100)
@given(layers(groups=1), specs())
def test_equals_golden_model(layer: Layer, spec: SmtSpec) -> None:
    x, w, geometry, _ = layer
    spec = replace(spec, saturate=True)
    prepared = PreparedConv2d(
        w,
        spec,
        stride=geometry["stride"],
        padding=geometry["padding"],
        dilation=geometry["dilation"],
        engine="int-mm",
    )
    assert torch.equal(prepared.accumulate(x), expected(layer, spec))


def test_call_quantizes_and_scales_in_pieces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 8, 9, 9, generator=generator) * 3
    w = torch.randint(-128, 128, (10, 8, 3, 3), generator=generator).to(torch.int8)
    w_scale = torch.rand(10, generator=generator) / 100
    bias = torch.randn(10, generator=generator)
    for signed in (False, True):
        prepared = PreparedConv2d(w, SmtSpec(1 if signed else 4), padding=1, engine="int-mm")
        whole = prepared(x, 0.05, w_scale, bias, signed)
        sums = prepared.accumulate(quantize_activation(x, 0.05, signed))
        exact = sums.double() * (0.05 * w_scale.double()).view(1, -1, 1, 1) + bias.double().view(1, -1, 1, 1)
        assert torch.allclose(whole.double(), exact, rtol=1e-5, atol=1e-5)
        monkeypatch.setattr(int_mm, "ROWS_BYTES", 1)
        assert torch.equal(prepared(x, 0.05, w_scale, bias, signed), whole)


def test_filters_that_could_leave_int32_are_refused() -> None:
    w = torch.full((1, 4, 191, 191), -128, dtype=torch.int8)
    with pytest.raises(ValueError, match="int-mm"):
        PreparedConv2d(w, SmtSpec(1), engine="int-mm")


def engine_for(w: torch.Tensor, spec: SmtSpec, groups: int, device: torch.device) -> type[Engine]:
    return choose_engine(ConvLayer(w, spec, pointwise(groups), device))


def test_layers_that_leave_bytes_or_have_groups_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.ones(4, 2, 3, 3, dtype=torch.int8)
    for engine in ("triton-int8", "int-mm"):
        with pytest.raises(ValueError, match="saturate=False"):
            PreparedConv2d(w, SmtSpec(2, saturate=False), engine=engine)
    with pytest.raises(ValueError, match="int-mm"):
        PreparedConv2d(w, SmtSpec(2), groups=2, engine="int-mm")
    monkeypatch.setattr(int_mm, "int_mm_is_exact", lambda _: True)
    monkeypatch.setattr(choose, "triton_trouble", lambda _: "")
    for capability, groups, chosen in (
        ((9, 0), 2, "triton-int8"),
        ((8, 0), 1, "triton-int8"),
        ((7, 5), 1, "int-mm"),
        ((7, 5), 2, "float32"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        monkeypatch.setattr(choose, "find_spec", lambda _: object())
        assert chosen in engine_for(w, SmtSpec(4), groups, CUDA).names
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    assert engine_for(w, SmtSpec(4), 1, CUDA) is int_mm.IntMMEngine
    assert engine_for(w, SmtSpec(4, saturate=False), 1, CUDA) is TorchEngine
    assert "int-mm" not in engine_for(w, SmtSpec(4), 1, CPU).names
