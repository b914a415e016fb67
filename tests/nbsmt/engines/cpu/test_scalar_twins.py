"""Every kernel against its scalar twin: plain loops that stand beside it."""

import ctypes
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.decompose.dense_sparse import DenseShare, decompose_weights
from bnrecal.nbsmt.decompose.operands import Operand, full_pattern, operands_of
from bnrecal.nbsmt.engines.cpu import channel_sums, sparse_layout
from bnrecal.nbsmt.engines.cpu.channel_planes import Planes, plan_layout
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.cpu.depthwise import DepthwiseEngine
from bnrecal.nbsmt.engines.cpu.kernels import slice_operands
from bnrecal.nbsmt.engines.cpu.kernels.channel_planes import channel_planes_ref
from bnrecal.nbsmt.engines.cpu.kernels.depthwise import depthwise_ref
from bnrecal.nbsmt.engines.cpu.kernels.quantize import expand_ref, quantize_ref
from bnrecal.nbsmt.engines.cpu.kernels.runtime import compiled, u64
from bnrecal.nbsmt.engines.cpu.kernels.sparse import Records, sparse_ref
from bnrecal.nbsmt.engines.cpu.kernels.table_lookup import table_lookup_ref
from bnrecal.nbsmt.engines.cpu.quantizer import Quantizer
from bnrecal.nbsmt.engines.cpu.sparse import SparseSums
from bnrecal.nbsmt.engines.cpu.sparse_entries import Layer
from bnrecal.nbsmt.engines.cpu.table_lookup import Lookup
from bnrecal.nbsmt.engines.engine import ConvLayer
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.policies.builtin import Value
from bnrecal.nbsmt.spec import SmtSpec

u8 = np.uint8
pytestmark = pytest.mark.skipif(not kernels_compile(), reason="numba is switched off")


def random_levels(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """uint8, some 40 % zeros, channels-last."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.6)
    return x.byte().contiguous(memory_format=torch.channels_last)


def pixels_of(x: torch.Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    """(pixels, channels) of (N, C, H, W)."""
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy())


def bytes_at(address: int, count: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return np.array((ctypes.c_uint8 * count).from_address(address), np.uint8)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("channels", [5, 64, 70])
def test_quantize(channels: int, signed: bool) -> None:
    x = torch.randn(1, channels, 2, 3, generator=torch.Generator().manual_seed(1)) * 40
    x.flatten()[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5, 1.5, 254.5])
    levels, _ = Quantizer((), SmtSpec(), channels, 1)(x, 1.0, signed)
    lowest, highest, offset = (-128, 127, 128) if signed else (0, 255, 0)
    assert (levels.numpy() == quantize_ref(x.numpy(), inverse_scale(1.0), lowest, highest, offset)).all()


@pytest.mark.parametrize("rounding", ["half_even", "floor"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_operand_select(threads: int, rounding: str) -> None:
    # Every way to select and more: all triples of values, under every pattern in turn.
    patterns = 2 ** (threads - 1)
    operands = [Operand(number % patterns, triple) for number, triple in enumerate(product(Value, Value, Value))]
    operands += [Operand(pattern, (Value.EXACT, Value.REDUCED, Value.ZERO)) for pattern in range(patterns)]
    x = random_levels((1, 12, 5, 8))
    _, expanded = Quantizer(tuple(operands), SmtSpec(threads, rounding=rounding), 12, 1)(x, 1.0, False)
    for levels, found in zip(pixels_of(x), pixels_of(expanded), strict=True):
        assert (found == expand_ref(levels, operands, threads, rounding == "half_even")).all()


@pytest.mark.parametrize("rounding", ["half_even", "floor"])
@pytest.mark.parametrize("channels", [4, 12, 64, 128, 256, 260, 300])
@pytest.mark.parametrize("threads", [2, 4])
def test_operands_of_the_full_pattern(threads: int, channels: int, rounding: str) -> None:
    spec = SmtSpec(threads, rounding=rounding)
    operands = tuple(operands_of(full_pattern(threads), spec))
    x = random_levels((1, 2 * channels, 1, 3))
    quantizer = Quantizer(operands, spec, channels, 2)
    assert quantizer.own.args["full"]
    assert not Quantizer(operands[:1] * 3, spec, channels, 2).own.args["full"]
    _, expanded = quantizer(x, 1.0, False)
    rows = pixels_of(x).reshape(-1, channels)  # one group of one pixel
    for levels, found in zip(rows, pixels_of(expanded).reshape(len(rows), -1), strict=True):
        assert (found == expand_ref(levels, operands, threads, rounding == "half_even")).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_channel_planes(stride: int, signed: bool) -> None:
    layout = plan_layout(2, (7, 6), (3, 3), Geometry((stride, stride), (1, 1), (1, 1), 1))
    x = random_levels((2, 19, 7, 6))
    source = torch.zeros(x.numel() + 4096, dtype=torch.uint8)  # slack behind, which vectors may read
    source[: x.numel()] = torch.from_numpy(pixels_of(x)).flatten()
    levels = source[: x.numel()].view(2, 7, 6, 19).permute(0, 3, 1, 2)
    planes = Planes(layout, 19, 64)
    found = bytes_at(planes(levels, signed), planes.bytes).reshape(-1, planes.pitch)
    expected = channel_planes_ref(pixels_of(x), layout.sources, 128 if signed else 0)
    assert (found[:19, : len(layout.sources)] == expected).all()


@compiled
def write_set(which: int, levels: u64, pitch: u64, target: u64, plane_bytes: u64, up: u8, odd: u8) -> None:
    if which == 0:
        slice_operands.write_pairs(levels, pitch, target, plane_bytes, up, odd)
    elif which == 1:
        slice_operands.write_singles(levels, pitch, target, plane_bytes, up, odd)
    else:
        slice_operands.write_full(levels, pitch, target, plane_bytes, up, odd)


@pytest.mark.parametrize("half_even", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_slice_operands(which: int, half_even: bool) -> None:
    # The first 16 positions: every set of active channels, with values that round up, down and beyond.
    levels = random_levels((4, 64, 1, 1), which).numpy().reshape(4, 64)
    for position in range(16):
        levels[:, position] = [(24, 55, 254, 9)[c] * (position >> c & 1) for c in range(4)]
    planes = slice_operands.SETS[which]
    made = np.zeros((len(planes), 80, 2), np.uint8)  # 16 positions more than are written
    pitch = u64(levels.strides[0])
    write_set(which, u64(levels.ctypes.data), pitch, u64(made.ctypes.data), u64(160), u8(7 * half_even), u8(half_even))
    assert (made[:, :64] == slice_operands.slice_operands_ref(planes, levels, half_even)).all()
    assert not made[:, 64:].any()


@pytest.mark.parametrize("planes_bytes", [1, 4096])
@pytest.mark.parametrize(("threads", "groups", "stride"), [(1, 1, 1), (2, 2, 1), (4, 1, 2), (4, 2, 1)])
@pytest.mark.parametrize("policy", ["A", "aW"])
def test_sparse(
    threads: int, groups: int, stride: int, policy: str, planes_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_layout, "PLANES_BYTES", planes_bytes)
    monkeypatch.setattr(sparse_layout, "CROWDED_BYTES", planes_bytes)
    generator = torch.Generator().manual_seed(2)
    w = torch.randint(-128, 128, (8, 8, 2, 1), generator=generator)
    w = (w * (torch.rand(w.shape, generator=generator) < 0.7)).to(torch.int8)
    spec = SmtSpec(threads, policy)
    sparse = decompose_weights(w, spec, paired=True, dense=DenseShare.NONE).sparse
    geometry = Geometry((stride, stride), (1, 0), (1, 1), groups)
    x = random_levels((1, 8 * groups, 4, 5))
    sums = SparseSums(sparse, spec, Layer(threads, 8, 8, groups), geometry, (2, 1), x.shape)
    high, wide = geometry.output_size((4, 5), (2, 1))
    target = torch.empty((1, 8, high, wide), dtype=torch.int32, memory_format=torch.channels_last)
    levels, _ = Quantizer((), SmtSpec(), 8 * groups, 1)(x.float(), 1.0, False)
    sums(levels, False, None, target, None, None)
    plan = sums.plan
    planes = bytes_at(sums.planes(levels, False), sums.planes.bytes).reshape(-1, sums.planes.pitch)
    records = Records(
        plan.blocks, plan.sets, plan.sources, plan.kinds, plan.entries, plan.starts, plan.operands, plan.layer.part
    )
    positions = plan.layout.positions
    expected = np.zeros((high * wide, 8), np.int32)
    for start in range(0, positions, plan.strip):
        shape = (plan.strip, plan.length, 8)
        strip = sparse_ref(planes, positions, start, shape, records, half_even=True)
        for position in range(start, min(start + plan.strip, positions)):
            if plan.layout.outputs[position] >= 0:
                expected[plan.layout.outputs[position]] = strip[:, position - start]
    assert (pixels_of(target) == expected).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("g", [Geometry((1, 1), (1, 1), (1, 1), 20), Geometry((2, 1), (0, 2), (2, 1), 20)])
def test_depthwise(g: Geometry, signed: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 20, 9, 8, generator=generator) * 4
    w = torch.randint(-128, 128, (20, 1, 3, 2), generator=generator).to(torch.int8)
    scale = torch.rand(20, generator=generator)
    bias = torch.randn(20, generator=generator)
    layer = ConvLayer(w, SmtSpec(), g, torch.device("cpu"))
    found = DepthwiseEngine(layer).convolve(x, 0.05, scale, bias, signed=signed)
    weights = w[:, 0].numpy()
    expected = depthwise_ref(x[0].numpy(), inverse_scale(0.05), signed, weights, g, scale.numpy(), bias.numpy())
    assert (found[0].numpy() == expected).all()


@pytest.mark.parametrize("channels", [1, 3, 64, 130])
def test_channel_sums(channels: int) -> None:
    # Integers, whose sums are exact in any order.
    generator = torch.Generator().manual_seed(4)
    rows = torch.randint(-99, 99, (20_000 // channels + 7, channels), generator=generator).float()
    for one, other in zip(channel_sums.shifted_sums(rows), channel_sums.shifted_sums_ref(rows), strict=True):
        assert np.array_equal(one, other)
    found = torch.randint(-9999, 9999, (3, channels, 7, 19), generator=generator).int()
    exact = torch.randint(-9999, 9999, (3, channels, 7, 19), generator=generator).int()
    assert torch.equal(channel_sums.squared_sums(found, exact), channel_sums.squared_sums_ref(found, exact))


@pytest.mark.parametrize("threads", [2, 4])
def test_table_lookup(threads: int) -> None:
    generator = torch.Generator().manual_seed(5)
    channels = 12
    selected = []
    for pattern in range(2 ** (threads - 1)):
        table = torch.randint(-999, 999, (pattern.bit_count() + 1, 256), generator=generator)
        chosen = torch.randperm(channels, generator=generator)[: 5 + pattern % 3]
        selected.append((pattern, table, chosen))
    x = random_levels((2, 2 * channels, 3, 3))
    found = Lookup(selected, SmtSpec(threads), channels, 2)(x, 1.0)
    rows = pixels_of(x).reshape(-1, channels)  # one group of one pixel
    expected = table_lookup_ref(rows, selected_arrays(selected), threads)
    assert (pixels_of(found).reshape(expected.shape) == expected).all()


def selected_arrays(selected: list[tuple[int, torch.Tensor, torch.Tensor]]) -> list[tuple[int, object, object]]:
    """As NumPy arrays, which plain loops index quicker."""
    return [(pattern, table.numpy(), chosen.numpy()) for pattern, table, chosen in selected]
