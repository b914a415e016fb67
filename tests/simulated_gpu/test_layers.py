"""Layers of kinds that small networks do not have, on a simulated CUDA device."""

from typing import Any

import pytest
import torch
from helpers.fake_cuda import simulated

from bnrecal.nbsmt.geometry import pointwise
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.intercept import ConvCall
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d


@pytest.mark.parametrize(
    ("capability", "spec", "engine"),
    [
        ((9, 0), SmtSpec(4), "triton-int8"),
        ((7, 5), SmtSpec(4), "int-mm"),
        ((9, 0), SmtSpec(4, saturate=False), "float32"),
        ((9, 0), SmtSpec(4, policy="helpers.policies:DROP"), "float32"),
    ],
)
def test_channels_that_are_picked(capability: tuple[int, int], spec: SmtSpec, engine: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-128, 128, (4, 256, 1, 1), generator=generator)
    w[torch.rand(w.shape, generator=generator) < 0.02] = 0  # single partners are rare then
    x = torch.randint(0, 256, (2, 256, 3, 3), generator=generator, dtype=torch.uint8)
    on_cpu = PreparedConv2d(w.to(torch.int8), spec).accumulate(x)
    with simulated(2, capability):
        layer = PreparedConv2d(w.to(torch.int8), spec, device="cuda:1")
        assert layer.engine_name == engine
        found = layer.accumulate(x.to("cuda:1")).cpu()
    assert torch.equal(found, on_cpu)


def test_an_order_of_channels_goes_to_the_gpu_once_and_activations_stay_channels_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    convolve = PreparedConv2d.convolve

    def watched(self: PreparedConv2d, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return convolve(self, x, *args, **kwargs)

    monkeypatch.setattr(PreparedConv2d, "convolve", watched)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 8, 3, 3, generator=generator)
    order = torch.randperm(8, generator=generator)
    x = torch.rand(2, 8, 5, 5, generator=generator).to(memory_format=torch.channels_last)
    info = ConvInfo("conv", 0, weight, (8, 5, 5), (4, 3, 3), pointwise(1), minimum=0.0, maximum=1.0)
    layer = NBSMTConv2d(info, SmtSpec(4), signed=False, act_range="max", permutation=order)
    on_cpu = layer(ConvCall(x, weight, None, pointwise(1)))
    with simulated(1):
        call = ConvCall(x.to("cuda:0"), weight.to("cuda:0"), None, pointwise(1))
        found = layer(call).cpu()
        (copy,) = layer._permutations.values()
        layer(call)
        assert next(iter(layer._permutations.values())) is copy
    assert torch.allclose(found, on_cpu)
    assert seen[-2:] == [True, True]
