"""The GPU engine on a real GPU."""

from dataclasses import replace

import pytest
import torch
from helpers.nbsmt_engines import check_on_engine, check_on_every_engine
from helpers.smt_cases import Layer, expected, layers, specs
from hypothesis import given, settings

from bnrecal.data.prefetch import copied_ahead
from bnrecal.nbsmt.analysis.self_check import check_exact
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: the kernels run in no GPU"),
]
CUDA = torch.device("cuda")


def test_the_check_at_the_start_passes() -> None:
    check_exact(CUDA)


@settings(max_examples=200)
@given(layers(), specs())
def test_equals_golden_model(layer: Layer, spec: SmtSpec) -> None:
    check_on_engine(layer, spec, "cuda", None)
    check_on_every_engine(layer, spec)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "groups"), [(256, 512, 3, 1), (64, 64, 1, 1), (64, 64, 3, 64)]
)
def test_large_layers_are_the_cpus_to_the_bit_every_time(
    threads: int, channels: int, filters: int, kernel: int, groups: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, channels, 14, 14, generator=generator).relu()
    w = torch.randint(-128, 128, (filters, channels // groups, kernel, kernel), generator=generator).to(torch.int8)
    scale = torch.rand(filters, generator=generator) / 1000
    bias = torch.randn(filters, generator=generator)
    spec = SmtSpec(threads)
    padding = kernel // 2
    on_cpu = PreparedConv2d(w, spec, padding=padding, groups=groups)(x, 0.02, scale, bias)
    prepared = PreparedConv2d(w, spec, padding=padding, groups=groups, device=CUDA)
    for _ in range(3):
        found = prepared(x.to(CUDA), 0.02, scale.to(CUDA), bias.to(CUDA)).cpu()
        assert torch.equal(found, on_cpu)


def test_layers_that_leave_bytes_still_run() -> None:
    x = torch.full((1, 8, 4, 4), 255, dtype=torch.uint8)
    w = torch.full((4, 8, 3, 3), 127, dtype=torch.int8)
    layer = (x, w, {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}, 1)
    spec = replace(SmtSpec(4), saturate=False)
    found = PreparedConv2d(w, spec, padding=1, device=CUDA).accumulate(x.to(CUDA)).cpu()
    assert torch.equal(found, expected(layer, spec))


def test_batches_arrive_as_they_were_sent() -> None:
    batches = [(torch.full((2, 3), float(n)).pin_memory(), torch.tensor([n, n]).pin_memory()) for n in range(5)]
    arrived = [(images * 1, labels * 1) for images, labels in copied_ahead(iter(batches), CUDA)]
    assert [int(labels[0]) for _, labels in arrived] == list(range(5))
    for (images, _), (sent, _) in zip(arrived, batches, strict=True):
        assert torch.equal(images.cpu(), sent)
