"""The engine against the golden model, on every engine there is."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers.nbsmt_engines import DEVICES, PLACES, check_on_every_engine, prepare_or_skip
from helpers.smt_cases import Layer, expected, integers, layers, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrecal.nbsmt import reference
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.decompose import expansion as expansion_module
from bnrecal.nbsmt.decompose.dense_sparse import DenseSparse
from bnrecal.nbsmt.engines.engine import Folded
from bnrecal.nbsmt.prepared_conv import PreparedConv2d, nbsmt_conv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES


@settings(max_examples=120)
@given(layers(), specs(), st.sampled_from([1, 64]))
def test_equals_golden_model_on_every_engine(layer: Layer, spec: SmtSpec, block: int) -> None:
    with mock.patch.object(
        expansion_module, "BLOCK", block
    ):  # with 1, channels are picked even of layers as small as these
        check_on_every_engine(layer, spec)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("channels", "groups"), [(64, 1), (64, 3), (80, 2), (256, 1)])
def test_equals_golden_model_where_channels_are_picked(policy: str, channels: int, groups: int) -> None:
    x = integers((2, groups * channels, 3, 3), 0, 256, 0.4, 0.3, 8).to(torch.uint8)
    w = integers((2 * groups, channels, 1, 2), -128, 128, 0.03, 0.3, 9).to(torch.int8)
    spec = SmtSpec(4, policy)
    expansion = expansion_module.plan_expansion(w, spec)
    assert expansion.picked
    assert expansion.whole
    assert expansion.width % 64 == 0
    check_on_every_engine((x, w, {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1)}, groups), spec)


def test_rare_patterns_cost_little() -> None:
    w = integers((64, 64, 3, 3), 1, 128, 0.01, 0.0, 10).to(torch.int8)
    assert expansion_module.plan_expansion(w, SmtSpec(4)).width == 9 * 64  # of 12
    assert expansion_module.plan_expansion(w, SmtSpec(1)).identity
    for needed, taken in ((1, 64), (576, 576), (577, 640), (43 * 64, 44 * 64), (74 * 64 - 5, 75 * 64)):
        assert expansion_module._quick_width(needed) == taken


@settings(max_examples=60)
@given(layers(), specs(), st.sampled_from(DEVICES))
def test_function_equals_golden_model(layer: Layer, spec: SmtSpec, device: str) -> None:
    x, w, geometry, groups = layer
    found = nbsmt_conv2d(
        x.to(device),
        w.to(device),
        threads=spec.threads,
        policy=spec.policy,
        sparsity=spec.sparsity,
        rounding=spec.rounding,
        saturate=spec.saturate,
        stride=geometry["stride"],
        padding=geometry["padding"],
        dilation=geometry["dilation"],
        groups=groups,
    )
    assert torch.equal(found.cpu(), expected(layer, spec))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_layer_of_zeros_answers_its_bias(threads: int) -> None:
    conv = PreparedConv2d(torch.zeros(3, 8, 3, 3, dtype=torch.int8), SmtSpec(threads))
    bias = torch.tensor([1.5, -2.0, 0.0])
    assert torch.equal(conv(torch.rand(2, 8, 3, 3), 0.1, torch.ones(3), bias), bias.view(1, 3, 1, 1).expand(2, 3, 1, 1))


@pytest.mark.parametrize("partner", [(0, 0), (0, 77), (200, 0), (13, -5), (255, -128)])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_operand_pair_with_the_partner_idle_and_active(policy: str, partner: tuple[int, int]) -> None:
    # 256 images of one pixel, 256 filters: output (a, b) is the step of (a, b) and the partner.
    x = torch.stack([torch.arange(256), torch.full((256,), partner[0])], 1).to(torch.uint8)
    w = torch.stack([torch.arange(-128, 128), torch.full((256,), partner[1])], 1).to(torch.int8)
    for rounding in ("half_even", "floor"):
        for saturate in (True, False):
            found = nbsmt_conv2d(
                x[:, :, None, None], w[:, :, None, None],
                threads=2, policy=policy, rounding=rounding, saturate=saturate,
            )[:, :, 0, 0]  # fmt: skip
            if 0 in partner:  # idle: every product is exact
                assert torch.equal(found.long(), torch.outer(torch.arange(256), torch.arange(-128, 128)))
                continue
            for a, row in enumerate(found.tolist()):
                golden = [
                    reference.processing_element([(a, b), partner], policy, True, rounding, saturate)
                    for b in range(-128, 128)
                ]
                assert row == golden


@pytest.mark.parametrize(("device", "engine"), PLACES)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_exact_at_4608_products_of_extremes(threads: int, device: str, engine: str) -> None:
    x = torch.full((1, 512, 3, 3), 255, dtype=torch.uint8, device=device)
    w = torch.full((3, 512, 3, 3), -128, dtype=torch.int8)
    w[1] = 127
    w[2, ::2] = 127  # large sums that cancel
    w[2, 0, 0, 0] = 3
    found = prepare_or_skip(w, SmtSpec(threads), device=device, engine=engine).accumulate(x).flatten().tolist()
    weights = w.flatten(1).tolist()
    assert found == [reference.dot([255] * 4608, row, threads) for row in weights]
    if threads == 1:
        assert found[0] == -255 * 128 * 4608


@settings(max_examples=40)
@given(layers())
def test_one_thread_is_the_plain_convolution(layer: Layer) -> None:
    x, w, geometry, groups = layer
    stride, padding, dilation = geometry["stride"], geometry["padding"], geometry["dilation"]
    found = nbsmt_conv2d(x, w, threads=1, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert torch.equal(found.double(), F.conv2d(x.double(), w.double(), None, stride, padding, dilation, groups))


def test_three_idle_threads_of_four_leave_the_exact_product() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 256, (2, 16, 5, 5), generator=generator).to(torch.uint8)
    w = torch.randint(-128, 128, (6, 16, 3, 3), generator=generator).to(torch.int8)
    for thread in range(4):
        own = torch.zeros_like(x)
        own[:, 4 * thread : 4 * thread + 4] = x[:, 4 * thread : 4 * thread + 4]
        assert torch.equal(nbsmt_conv2d(own, w, threads=4, padding=1), nbsmt_conv2d(own, w, threads=1, padding=1))


@pytest.mark.parametrize(("device", "engine"), PLACES)
def test_signed_activations_run_on_one_thread(device: str, engine: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-128, 128, (2, 8, 6, 5), generator=generator).to(torch.int8)
    w = torch.randint(-128, 128, (8, 4, 3, 3), generator=generator).to(torch.int8)
    prepared = prepare_or_skip(w, SmtSpec(1), padding=(1, 2), stride=2, groups=2, device=device, engine=engine)
    found = prepared.accumulate(x.to(device)).cpu()
    assert torch.equal(found.double(), F.conv2d(x.double(), w.double(), None, 2, (1, 2), groups=2))


@pytest.mark.parametrize(("device", "engine"), PLACES)
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_call_quantizes_and_scales(device: str, engine: str, threads: int, signed: bool) -> None:
    if signed and threads > 1:
        return
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 24, 9, 9, generator=generator) * 3
    w = torch.randint(-128, 128, (10, 24, 3, 3), generator=generator).to(torch.int8)
    w_scale = torch.rand(10, generator=generator) / 100
    bias = torch.randn(10, generator=generator)
    prepared = prepare_or_skip(w, SmtSpec(threads), padding=1, device=device, engine=engine)
    found = prepared(x.to(device), 0.05, w_scale.to(device), bias.to(device), signed).cpu()
    sums = prepared.accumulate(quantize_activation(x.to(device), 0.05, signed)).cpu()
    exact = sums.double() * (0.05 * w_scale.double()).view(1, -1, 1, 1) + bias.double().view(1, -1, 1, 1)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_call_in_pieces_and_in_several_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    w = torch.randint(-128, 128, (8, 16, 1, 1), generator=generator).to(torch.int8)
    prepared = PreparedConv2d(w, SmtSpec(4), stride=2)
    x = torch.rand(6, 16, 8, 8, generator=generator)
    whole = prepared(x, 1 / 255, torch.ones(8))
    monkeypatch.setattr("bnrecal.nbsmt.engines.cpu.dense_sparse.PIECE_BYTES", 2 * (16 * 4 * 4 * 4 + 4 * 8 * 4 * 4))
    monkeypatch.setattr("bnrecal.nbsmt.engines.integer_conv.PIECE_BYTES", 2 * 12 * 16 * 4 * 4)
    assert torch.equal(prepared(x, 1 / 255, torch.ones(8)), whole)
    for images, size in ((1, 8), (5, 8), (6, 5), (2, 3), (6, 8)):
        part = x[:images, :, :size, :size]
        half = (size + 1) // 2
        assert torch.equal(prepared(part, 1 / 255, torch.ones(8)), whole[:images, :, :half, :half])
        # packed, the parts of the weights are not kept besides
        assert isinstance(prepared.engine, Folded)
        assert not any(isinstance(value, DenseSparse) for value in vars(prepared.engine.inner).values())


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_empty_batch(threads: int) -> None:
    w = torch.ones(3, 4, 3, 3, dtype=torch.int8)
    found = nbsmt_conv2d(torch.empty(0, 4, 7, 9, dtype=torch.uint8), w, threads=threads, padding=1, stride=2)
    assert found.shape == (0, 3, 4, 5)
    assert found.dtype == torch.int32
    prepared = PreparedConv2d(w, SmtSpec(threads))
    assert prepared(torch.empty(0, 4, 7, 9), 0.1, torch.ones(3)).shape == (0, 3, 5, 7)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_layout_does_not_matter(threads: int) -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randint(0, 256, (2, 9, 10, 16), generator=generator).to(torch.uint8)[:, ::2, 1::2].permute(0, 3, 1, 2)
    w = torch.randint(-128, 128, (3, 3, 4, 16), generator=generator).to(torch.int8).permute(2, 3, 0, 1)
    assert not x.is_contiguous()
    packed = nbsmt_conv2d(x.contiguous(), w.contiguous(), threads=threads, padding=1)
    assert torch.equal(nbsmt_conv2d(x, w, threads=threads, padding=1), packed)
    prepared = PreparedConv2d(w, SmtSpec(threads))
    scale = torch.ones(4)
    assert torch.equal(prepared(x.float(), 1.0, scale), prepared(x.float().contiguous(), 1.0, scale))


X = torch.zeros(1, 4, 5, 5, dtype=torch.uint8)
W = torch.ones(2, 4, 3, 3, dtype=torch.int8)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"x": X.int()}, TypeError, "int32"),
        ({"w": W.float()}, TypeError, "float32"),
        ({"x": X[0]}, ValueError, r"\(4, 5, 5\)"),
        ({"x": X[:, :3]}, ValueError, r"\(1, 3, 5, 5\)"),
        ({"x": X[:, :, :2]}, ValueError, r"\(1, 4, 2, 5\)"),
        ({"w": W[0]}, ValueError, r"\(4, 3, 3\)"),
        ({"w": W[:, :0]}, ValueError, r"\(2, 0, 3, 3\)"),
        ({"threads": 3}, ValueError, "not 3"),
        ({"threads": True}, ValueError, "not True"),
        ({"policy": "B"}, ValueError, "'B'"),
        ({"policy": ["A"]}, ValueError, r"module:ATTRIBUTE, or a CustomPolicy, not \['A'\]"),
        ({"rounding": "up"}, ValueError, "'up'"),
        ({"sparsity": 1}, ValueError, "sparsity.*1"),
        ({"saturate": None}, ValueError, "saturate.*None"),
        ({"groups": 3}, ValueError, "not 3"),
        ({"groups": 0}, ValueError, "not 0"),
        ({"stride": 0}, ValueError, "stride.*0"),
        ({"padding": -1}, ValueError, "padding.*-1"),
        ({"padding": "same"}, ValueError, "'same'"),
        ({"dilation": (1, 2, 3)}, ValueError, r"\(1, 2, 3\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], error: type[Exception], named: str) -> None:
    good: dict[str, object] = {"x": X, "w": W, "threads": 2}
    with pytest.raises(error, match=named):
        nbsmt_conv2d(**{**good, **arguments})  # type: ignore[arg-type]


def test_bad_uses_of_the_prepared_form_are_named() -> None:
    with pytest.raises(ValueError, match="'cudnn'"):
        PreparedConv2d(W, SmtSpec(), engine="cudnn")
    with pytest.raises(ValueError, match="saturate=False"):
        PreparedConv2d(W, SmtSpec(2, saturate=False), engine="onednn-int8")
    with pytest.raises(TypeError, match="int8"):
        PreparedConv2d(W, SmtSpec(2)).accumulate(X.to(torch.int8))
    with pytest.raises(TypeError, match="int8"):
        PreparedConv2d(W, SmtSpec(4))(X.float(), 1.0, torch.ones(2), signed=True)
    for scale in (0.0, -1.0, float("nan"), float("inf"), 1e-45):
        with pytest.raises(ValueError, match="x_scale"):
            PreparedConv2d(W, SmtSpec(2))(X.float(), scale, torch.ones(2))
