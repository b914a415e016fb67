"""The Triton kernels compiled for GPUs that are not here: 8-bit tensor-core instructions, and no spilled registers."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="torch brings no Triton here: the GPU kernels are not compiled")
if os.environ.get("TRITON_INTERPRET", "0") == "1":
    pytest.skip("TRITON_INTERPRET=1: nothing is compiled", allow_module_level=True)

from helpers.kernel_source import kernel_source  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from bnrecal.nbsmt.engines.gpu import tuning  # noqa: E402
from bnrecal.nbsmt.engines.gpu.conv_end import BLOCK  # noqa: E402
from bnrecal.nbsmt.engines.gpu.kernels import conv_end, convolve, expand  # noqa: E402
from bnrecal.nbsmt.engines.gpu.layout import lay_out  # noqa: E402
from bnrecal.nbsmt.engines.gpu.triton_engine import DEPTHWISE_TILE, LANES, RUN, SAFE_STEPS  # noqa: E402
from bnrecal.nbsmt.spec import SmtSpec  # noqa: E402

CAPABILITIES = (80, 89, 90)
FIRST_AND_LAST = (80, 90)  # what the one between them shares with both
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"  # in every release
FLOATS = ("x", "y", "scale", "bias", "alpha", "beta", "residual")
NUMBERS = ("lowest", "highest", "level_inverse", "x_inverse")
POINTERS = {"w": "*i8", "offset": "*i32", **dict.fromkeys(FLOATS, "*fp32"), **dict.fromkeys(NUMBERS, "fp32")}
ALONE = {"END": False, "RESIDUAL": False, "LEVELS": False, "LEVELS_SIGNED": False}
# ReLU and levels after a residual: what takes the most registers.
ENDED = {"END": True, "RESIDUAL": True, "LEVELS": True, "LEVELS_SIGNED": False}
TABLES = dict.fromkeys(("operands", "places", "sources", "codes"), "*i32")
EXPANSION = {"x": "*fp32", "y": "*i8", **TABLES, "x_inverse": "fp32"}
# The second accumulator is for filters of more than 131,072 weights, which networks hardly have. Triton 3.6 spills
# some of it.
SPILLED_BY_SPLIT = 16
# A residual next to 64 sums a lane, on sm_90: once a tile, not in its loop.
SPILLED_BY_RESIDUAL = 40
# Triton compiles these arguments as constants where they are 1.
ONES = ("filters", "multiplier", "x_image", "x_row", "x_col")
# What is a multiple of 16 in networks whose channels are: it decides how many bytes a load takes.
EVEN = (*FLOATS, "w", "offset", "E", "depth", "filters", "values", *TABLES)


@pytest.fixture(autouse=True)
def _own_triton_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def _compile(
    kernel: Any, types: dict[str, str], meta: dict[str, Any], capability: int, warps: int = 4, stages: int = 3
) -> Any:
    source = kernel_source(kernel, types, meta, EVEN)
    options = {"num_warps": warps, "num_stages": stages, **tuning.ROUNDED}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _stack_bytes(compiled: Any, folder: Path) -> int:
    """What the assembler put on each thread's stack, which is where spilled registers go."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [str(CUOBJDUMP), "-res-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.findall(r"STACK:(\d+)", usage.stdout + usage.stderr)
    assert len(found) == 1, usage
    return int(found[0])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_gemm_multiplies_bytes_on_tensor_cores_and_spills_nothing(capability: int, tmp_path: Path) -> None:
    instruction = r"wgmma\.mma_async[\w.]*\.s32\.s8\.s8" if capability == 90 else r"mma\.sync[\w.]*\.s32\.s8\.s8\.s32"
    tiles = tuning.HOPPER_TILES if capability == 90 else tuning.TILES
    for tile in tiles:
        bm, bn, bk, warps, stages = tile
        for split in (0, SAFE_STEPS):
            if split and not tuning.has_room(tile):
                continue
            meta = {"FLOAT": True, "BIAS": True, **ALONE, "SPLIT": split, "BM": bm, "BN": bn, "BK": bk}
            compiled = _compile(convolve.conv_int8, {**POINTERS, "x": "*i8"}, meta, capability, warps, stages)
            assert re.search(instruction, compiled.asm["ptx"]), (bm, bn, bk, split)
            assert "fma.rn.f32" not in compiled.asm["ptx"]
            assert _stack_bytes(compiled, tmp_path) <= (SPILLED_BY_SPLIT if split else 0), (bm, bn, bk, split)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_what_follows_a_gemm_rounds_once_stores_whole_vectors_and_spills_next_to_nothing(
    capability: int, tmp_path: Path
) -> None:
    tiles = tuning.HOPPER_TILES if capability == 90 else tuning.TILES
    large = [tile for tile in tiles if tuning.beside_residual(tile) != tile]
    beside = {tuning.beside_residual(tile) for tile in (*tiles[: tuning.MOST_TILES], *large)}
    for tile, residual in [*((tile, True) for tile in beside), *((tile, False) for tile in large)]:
        shape = {"BM": tile.rows, "BN": tile.filters, "BK": tile.channels}
        meta = {"FLOAT": True, "BIAS": False, **ENDED, "RESIDUAL": residual, "SPLIT": 0, **shape}
        types = {**POINTERS, "x": "*i8", "y": "*u8"}
        compiled = _compile(convolve.conv_int8, types, meta, capability, tile.warps, tile.stages)
        ptx = compiled.asm["ptx"]
        assert len(re.findall(r"fma\.rn\.f32", ptx)) == tile.rows * tile.filters // (32 * tile.warps)
        assert set(re.findall(r"st\.global\.[\w.]+", ptx)) == {"st.global.v4.b32"}
        assert "ld.global.v4.b32" in ptx or not residual
        assert _stack_bytes(compiled, tmp_path) <= (SPILLED_BY_RESIDUAL if residual and capability == 90 else 0), tile


@pytest.mark.parametrize("capability", FIRST_AND_LAST)
@pytest.mark.parametrize("levels", [False, True])
def test_a_pass_of_its_own_moves_whole_vectors(levels: bool, capability: int, tmp_path: Path) -> None:
    meta = {**ENDED, "LEVELS": levels, "BLOCK": BLOCK}
    del meta["END"]
    types = {**POINTERS, "y": "*u8" if levels else "*fp32"}
    compiled = _compile(conv_end.end_values, types, meta, capability)
    ptx = compiled.asm["ptx"]
    a_lane = BLOCK // 128
    assert len(re.findall(r"fma\.rn\.f32", ptx)) == a_lane
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) == 2 * a_lane // 4
    stores = re.findall(r"st\.global\.[\w.]+", ptx)
    assert sum(16 if "v4" in store else 8 if "v2" in store else 4 for store in stores) == a_lane * (1 if levels else 4)
    assert _stack_bytes(compiled, tmp_path) == 0


@pytest.mark.parametrize(("threads", "capability"), [(1, 90), (2, 80), (4, 80), (4, 90)])
@pytest.mark.parametrize(("vector", "store"), [(16, r"v4\.b32"), (8, r"v2\.b32"), (4, "b32"), (1, "b8")])
def test_the_expansion_stores_whole_vectors_that_no_lane_waits_for(
    threads: int, vector: int, store: str, capability: int, tmp_path: Path
) -> None:
    compiled = _compile(expand.quantize_expand, EXPANSION, _of_expansion(threads, vector), capability)
    ptx = compiled.asm["ptx"]
    gathered = RUN if vector == 1 else 0  # those store single bytes too
    assert len(re.findall(rf"st\.global\.{store}", ptx)) == 1 + gathered
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) == threads * (vector // 4)
    assert "bar.sync" not in ptx
    assert "shfl" not in ptx
    assert "st.shared" not in ptx
    assert _stack_bytes(compiled, tmp_path) == 0


def _of_expansion(threads: int, vector: int) -> dict[str, Any]:
    return {
        "T": threads, "TAPS": 1, "VEC": vector, "QUANTIZE": True, "SIGNED": False, "HALF_EVEN": True, "LANES": LANES,
        "RUN": RUN,
    }  # fmt: skip


@pytest.mark.parametrize("threads", [2, 4])
def test_the_default_policys_operands_take_the_short_way(threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (256, 16, 3, 3), generator=generator)
    weight[torch.rand(weight.shape, generator=generator) < 0.1] = 0
    layout, _ = lay_out(weight.to(torch.int8), SmtSpec(threads), 1, torch.device("cpu"))
    kinds = {code >> 3 for code in layout.operands.tolist()}
    short = {kind.value for kind in (expand.AS_IS, expand.REDUCED_BY_ONE, expand.REDUCED_AMONG_SEVERAL)}
    assert len(kinds) > 1
    assert kinds <= short


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_depthwise_kernel_spills_nothing(capability: int, tmp_path: Path) -> None:
    meta = {
        "TAPS": 9, "FLOAT": True, "BIAS": True, "QUANTIZE": True, "SIGNED": False, "BP": DEPTHWISE_TILE[0],
        "BC": DEPTHWISE_TILE[1],
    }  # fmt: skip
    for end, y in ((ALONE, "*fp32"), (ENDED, "*u8")):
        compiled = _compile(convolve.depthwise, {**POINTERS, "y": y}, {**meta, **end}, capability)
        assert _stack_bytes(compiled, tmp_path) == 0


INPUTS = [("*fp32", False), ("*fp32", True), ("*u8", False), ("*i8", True)]


@pytest.mark.parametrize(("x", "signed"), INPUTS)
def test_every_kind_of_input_is_expanded(x: str, signed: bool) -> None:
    for threads, taps in ((1, 1), (4, 1), (4, 9)):
        if signed and threads > 1:
            continue
        meta = {**_of_expansion(threads, 16 if taps == 1 else 1), "TAPS": taps, "HALF_EVEN": False, "SIGNED": signed}
        _compile(expand.quantize_expand, {**EXPANSION, "x": x}, {**meta, "QUANTIZE": x == "*fp32"}, 80)


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize(("x", "signed"), INPUTS)
def test_every_kind_of_input_is_convolved(x: str, signed: bool, ones: bool) -> None:
    quantize = x == "*fp32"
    end = {"FLOAT": quantize, "BIAS": quantize and not signed, **ALONE}
    types = {**POINTERS, "x": x, "y": "*fp32" if quantize else "*i32"}
    meta = {**end, "QUANTIZE": quantize, "SIGNED": signed, "BP": 32, "BC": 32, "TAPS": 9}
    _compile(convolve.depthwise, types, _with_ones(convolve.depthwise, meta, ones), 80)
    meta = {**end, "SPLIT": 0, "BM": 64, "BN": 16, "BK": 32}
    _compile(convolve.conv_int8, {**types, "x": "*i8"}, _with_ones(convolve.conv_int8, meta, ones), 80)


def _with_ones(kernel: Any, meta: dict[str, Any], ones: bool) -> dict[str, Any]:
    return {**({name: 1 for name in ONES if name in kernel.arg_names} if ones else {}), **meta}


@pytest.mark.parametrize("hopper", [False, True])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("filters", [1, 3, 16, 24, 64, 1000])
@pytest.mark.parametrize("depth", [32, 64, 96, 128, 160, 576, 1152])
def test_every_shape_has_a_few_tiles_to_choose_from(depth: int, filters: int, split: bool, hopper: bool) -> None:
    tiles = tuning.fitting_tiles(depth, filters, split, hopper=hopper)
    assert 1 <= len(tiles) <= tuning.MOST_TILES
    assert all(depth % tile.channels == 0 for tile in tiles)
    assert all(tile.filters <= max(16, 2 * filters) for tile in tiles)
    assert not split or all(tuning.has_room(tile) for tile in tiles)
