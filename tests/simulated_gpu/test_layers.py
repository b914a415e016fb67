"""Layers of kinds that small networks do not have, on a simulated CUDA device."""

import pytest
import torch
from helpers.fake_cuda import simulated

from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec


@pytest.mark.parametrize(
    ("capability", "spec", "backend"),
    [
        ((9, 0), SmtSpec(4), "triton-int8"),
        ((7, 5), SmtSpec(4), "int-mm"),
        ((9, 0), SmtSpec(4, saturate=False), "float32"),
        ((9, 0), SmtSpec(4, policy="helpers.policies:DROP"), "float32"),
    ],
)
def test_channels_that_are_picked(capability: tuple[int, int], spec: SmtSpec, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-128, 128, (4, 256, 1, 1), generator=generator)
    w[torch.rand(w.shape, generator=generator) < 0.02] = 0  # single partners are rare then
    x = torch.randint(0, 256, (2, 256, 3, 3), generator=generator, dtype=torch.uint8)
    on_cpu = PreparedConv2d(w.to(torch.int8), spec).accumulate(x)
    with simulated(2, capability):
        layer = PreparedConv2d(w.to(torch.int8), spec, device="cuda:1")
        assert layer.backend == backend
        found = layer.accumulate(x.to("cuda:1")).cpu()
    assert torch.equal(found, on_cpu)
