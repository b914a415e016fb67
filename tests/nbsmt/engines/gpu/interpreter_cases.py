"""The Triton kernels against the golden model: run by `test_interpreter.py` in a process with TRITON_INTERPRET=1.

There the kernels work on the CPU's tensors, so that no GPU is needed.
"""

from dataclasses import replace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import typed_store
from helpers.nested_kernels import patched_once  # noqa: F401 (a fixture of all cases)
from helpers.smt_cases import Layer, expected, integers, layers, specs
from hypothesis import given, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bnrecal.nbsmt import reference
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines.gpu import triton_engine
from bnrecal.nbsmt.engines.gpu.choose import TritonEngine
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES

typed_store.install()
ENGINE = "triton-int8"
ONE = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


def prepare(layer: Layer, spec: SmtSpec) -> PreparedConv2d:
    _, w, geometry, groups = layer
    return PreparedConv2d(
        w, spec, stride=geometry["stride"], padding=geometry["padding"], dilation=geometry["dilation"], groups=groups,
        engine=ENGINE,
    )  # fmt: skip


@settings(max_examples=80)
@given(layers(), specs())
def test_equals_golden_model(layer: Layer, spec: SmtSpec) -> None:
    spec = replace(spec, saturate=True)  # 256 and 128 would not fit the bytes that tensor cores take
    found = prepare(layer, spec).accumulate(layer[0])
    assert found.dtype == torch.int32
    assert torch.equal(found, expected(layer, spec))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("channels", "groups"), [(64, 1), (80, 2)])
def test_equals_golden_model_where_channels_are_picked(policy: str, channels: int, groups: int) -> None:
    x = integers((2, groups * channels, 3, 3), 0, 256, 0.4, 0.3, 8).to(torch.uint8)
    w = integers((2 * groups, channels, 1, 2), -128, 128, 0.03, 0.3, 9).to(torch.int8)
    layer = (x, w, {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1)}, groups)
    prepared = prepare(layer, SmtSpec(4, policy))
    assert isinstance(prepared.engine, TritonEngine)
    assert len(prepared.engine.conv.layout.codes)
    assert len(prepared.engine.conv.layout.operands)
    assert torch.equal(prepared.accumulate(x), expected(layer, SmtSpec(4, policy)))


def _expanded_exactly(part: int, groups: int, vector: int, spec: SmtSpec) -> None:
    channels = spec.threads * part
    x = torch.arange(groups * channels * 9).mul(97).remainder(256).view(1, groups * channels, 3, 3)
    x[:, ::3] = 0
    w = integers((2 * groups, channels, 1, 1), -128, 128, 0.2, 0.3, 9).to(torch.int8)
    layer = (x.to(torch.uint8), w, {"stride": (1, 1), "padding": (1, 0), "dilation": (1, 1)}, groups)
    prepared = prepare(layer, spec)
    assert isinstance(prepared.engine, TritonEngine)
    assert prepared.engine.conv.layout.vector == vector
    assert torch.equal(prepared.accumulate(layer[0]), expected(layer, spec))


def test_picked_channels_are_taken_block_by_block() -> None:
    x = integers((2, 64, 3, 3), 0, 256, 0.4, 0.3, 8).to(torch.uint8)
    w = integers((4, 64, 1, 1), -128, 128, 0.03, 0.3, 9).to(torch.int8)
    layer = (x, w, ONE, 1)
    with mock.patch.object(triton_engine, "LANES", 2 * triton_engine.RUN):  # a card has 128
        prepared = prepare(layer, SmtSpec(4))
        assert isinstance(prepared.engine, TritonEngine)
        assert len(prepared.engine.conv.layout.codes) > 4 * triton_engine.RUN
        assert torch.equal(prepared.accumulate(x), expected(layer, SmtSpec(4)))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(("part", "groups", "vector"), [(16, 3, 16), (24, 1, 8), (12, 1, 4), (6, 2, 1)])
def test_channels_are_expanded_alike_however_many_a_lane_takes(
    part: int, groups: int, vector: int, threads: int
) -> None:
    _expanded_exactly(part, groups, vector, SmtSpec(threads))


@pytest.mark.parametrize("policy", POLICIES)
def test_four_at_a_time_are_every_policys_operands(policy: str) -> None:
    _expanded_exactly(16, 1, 16, SmtSpec(4, policy, rounding="floor"))


@pytest.mark.parametrize("threads", [2, 4])
def test_an_activation_of_half_a_step_is_no_active_partner(threads: int) -> None:
    x = torch.tensor([0.0, 0.5, 0.50001, 1.5, 2.5, 15.5, 255.5, 1e9, -1.0, float("nan")]).repeat(64).view(1, 64, 2, 5)
    w = integers((4, 64, 1, 1), -128, 128, 0.05, 0.3, 3).to(torch.int8)
    prepared = PreparedConv2d(w, SmtSpec(threads), engine=ENGINE)
    assert isinstance(prepared.engine, TritonEngine)
    assert threads == 2 or len(prepared.engine.conv.layout.codes)  # some are looked up one by one
    sums = prepared.accumulate(quantize_activation(x, 1.0, False))
    assert torch.equal(prepared(x, 1.0, torch.ones(4)), sums.float())


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_small_groups_share_a_bundle(threads: int) -> None:
    x = integers((1, 24, 4, 4), 0, 256, 0.3, 0.3, 1).to(torch.uint8)
    w = integers((18, 4, 3, 3), -128, 128, 0.1, 0.3, 2).to(torch.int8)
    layer = (x, w, ONE, 6)
    prepared = prepare(layer, SmtSpec(threads))
    assert isinstance(prepared.engine, TritonEngine)
    assert prepared.engine.conv.layout.bundle > 1
    assert torch.equal(prepared.accumulate(x), expected(layer, SmtSpec(threads)))


@pytest.mark.parametrize(
    ("threads", "safe_weight"), [*[(threads, triton_engine.SAFE_WEIGHT) for threads in (1, 2, 4)], (4, 1)]
)
def test_exact_at_4608_products_of_extremes(threads: int, safe_weight: int) -> None:
    x = torch.full((1, 512, 3, 3), 255, dtype=torch.uint8)
    w = torch.full((3, 512, 3, 3), -128, dtype=torch.int8)
    w[1] = 127
    w[2, ::2] = 127  # large sums that cancel
    with mock.patch.multiple(triton_engine, SAFE_WEIGHT=safe_weight, SAFE_STEPS=5):  # 1: by a second accumulator
        found = PreparedConv2d(w, SmtSpec(threads), engine=ENGINE).accumulate(x).flatten().tolist()
    assert found == [reference.dot([255] * 4608, row, threads) for row in w.flatten(1).tolist()]


@pytest.mark.parametrize("channels", [1, 8])
def test_signed_activations_run_on_one_thread(channels: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-128, 128, (2, 2 * channels, 6, 5), generator=generator).to(torch.int8)
    w = torch.randint(-128, 128, (8, channels, 3, 3), generator=generator).to(torch.int8)
    prepared = PreparedConv2d(w, SmtSpec(1), padding=(1, 2), stride=2, groups=2, engine=ENGINE)
    found = prepared.accumulate(x)
    assert torch.equal(found.double(), F.conv2d(x.double(), w.double(), None, 2, (1, 2), groups=2))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(24, 1), (1, 10), (3, 1)])
def test_call_quantizes_and_scales(threads: int, signed: bool, channels: int, groups: int) -> None:
    if signed and threads > 1:
        return
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, groups * channels, 5, 5, generator=generator) * 3
    x[0, 0, :2] = torch.tensor([float("nan"), 1e9, -1e9, 0.125, 0.375])  # 0.125 / 0.05 lies between two levels
    w = torch.randint(-128, 128, (10, channels, 3, 3), generator=generator).to(torch.int8)
    w_scale = torch.rand(10, generator=generator) / 100
    bias = torch.randn(10, generator=generator)
    prepared = PreparedConv2d(w, SmtSpec(threads), padding=1, groups=groups, engine=ENGINE)
    for b in (None, bias) if threads == 1 else (bias,):
        found = prepared(x, 0.05, w_scale, b, signed)
        sums = prepared.accumulate(quantize_activation(x, 0.05, signed))
        exact = sums.double() * (0.05 * w_scale.double()).view(1, -1, 1, 1)
        exact += 0 if b is None else b.double().view(1, -1, 1, 1)
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-5)
        on_cpu = PreparedConv2d(w, SmtSpec(threads), padding=1, groups=groups)
        assert torch.equal(found, on_cpu(x, 0.05, w_scale, b, signed))


def test_every_activation_is_quantized_as_torch_does() -> None:
    x = torch.cat([torch.arange(-600, 1200) / 4, torch.tensor([float("nan"), float("inf"), -float("inf")])])
    w = torch.ones(1, 1, 1, 1, dtype=torch.int8)
    for signed in (False, True):
        for kernel in (w, torch.cat([w, w * 0], 1)):  # depthwise, and the GEMM
            images = x.view(-1, 1, 1, 1).expand(-1, kernel.shape[1], 1, 1)
            prepared = PreparedConv2d(kernel, SmtSpec(1), engine=ENGINE)
            for scale in (1.0, 0.37):
                levels = quantize_activation(x, scale, signed)
                found = prepared(images, scale, torch.full((1,), 1 / scale), signed=signed).flatten()
                assert torch.equal(found.round().long(), levels.long()), (signed, scale)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_layout_does_not_matter(threads: int) -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randint(0, 256, (2, 9, 10, 16), generator=generator).to(torch.uint8)[:, ::2, 1::2].permute(0, 3, 1, 2)
    w = torch.randint(-128, 128, (3, 3, 4, 16), generator=generator).to(torch.int8).permute(2, 3, 0, 1)
    layer: Layer = (x, w, ONE, 1)
    assert torch.equal(prepare(layer, SmtSpec(threads)).accumulate(x), expected(layer, SmtSpec(threads)))


class _Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a GPU would be asked to start: every torch operation but views and fresh memory, and every kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        first = next((a for a in args if isinstance(a, Tensor)), None)
        aliases = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not aliases and "empty" not in func.__name__ and first is not None:
            self.seen.append(func.__name__)
        return found


def _counted(launches: _Launches, original, *args, **kwargs):  # type: ignore[no-untyped-def]
    launches.seen.append("kernel")
    with torch.utils._python_dispatch._disable_current_modes():  # the interpreter itself copies tensors
        original(*args, **kwargs)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("channels", "groups"), [(64, 1), (3, 1), (1, 8), (4, 4)])
def test_a_layer_starts_few_kernels_for_a_whole_batch(
    threads: int, channels: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(7)
    w = torch.randint(-128, 128, (8, channels, 3, 3), generator=generator).to(torch.int8)
    prepared = PreparedConv2d(w, SmtSpec(threads), padding=1, groups=groups, engine=ENGINE)
    x = torch.randn(5, groups * channels, 4, 4, generator=generator)
    scale = torch.ones(8)
    bias = torch.ones(8)
    launches = _Launches()
    for name in ("launch", "multiply"):
        original = getattr(triton_engine, name)
        monkeypatch.setattr(
            triton_engine, name, lambda *a, original=original, **k: _counted(launches, original, *a, **k)
        )
    with launches:
        prepared(x, 0.05, scale, bias)  # float32, not even channels-last
    assert launches.seen.count("kernel") == (1 if channels == 1 and threads == 1 else 2)
    assert len(launches.seen) <= 6, launches.seen


def test_short_memory_halves_the_batch_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generator = torch.Generator().manual_seed(8)
    w = torch.randint(-128, 128, (4, 8, 3, 3), generator=generator).to(torch.int8)
    x = torch.randn(7, 8, 5, 5, generator=generator)
    prepared = PreparedConv2d(w, SmtSpec(2), padding=1, engine=ENGINE)
    whole = prepared(x, 0.05, torch.ones(4))
    original = triton_engine._expanded
    asked = []

    def short(images: int, *rest: object) -> Tensor:
        asked.append(images)
        if images > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(triton_engine, "_expanded", short)
    assert torch.equal(prepared(x, 0.05, torch.ones(4)), whole)
    assert asked == [7, 4, 2, 2, 2, 1]
    assert "takes 2 images at a time" in caplog.text
    asked.clear()
    caplog.clear()
    assert torch.equal(prepared(x, 0.05, torch.ones(4)), whole)
    assert asked == [2, 2, 2, 1]  # known from the batch before
    prepared(x[:, :, :2], 0.05, torch.ones(4))
    assert asked[4] > 2  # smaller images, more of them
    assert not caplog.text or "takes 2" in caplog.text
