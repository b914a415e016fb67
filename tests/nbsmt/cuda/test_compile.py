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

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from bnrecal.nbsmt.cuda import kernels, launch  # noqa: E402
from bnrecal.nbsmt.cuda.conv import DEPTHWISE_TILE, EXPAND_TILE, SAFE_STEPS  # noqa: E402
from bnrecal.nbsmt.cuda.layout import lay_out  # noqa: E402
from bnrecal.nbsmt.spec import SmtSpec  # noqa: E402

CAPABILITIES = (80, 89, 90)
POINTERS = {"x": "*fp32", "w": "*i8", "y": "*fp32", "scale": "*fp32", "bias": "*fp32", "offset": "*i32"}
# What is a multiple of 16 in networks whose channels are: it decides how many bytes a load takes.
EVEN = ("x", "w", "y", "scale", "bias", "offset", "E", "depth", "filters", "x_image", "x_row", "x_col", "columns",
        "width", "per_group")  # fmt: skip


@pytest.fixture(autouse=True)
def _own_triton_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def _compile(kernel: Any, types: dict[str, str], meta: dict[str, Any], capability: int, warps: int, stages: int) -> Any:
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in meta else types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in meta.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in EVEN if name in names},
    )
    options = {"num_warps": warps, "num_stages": stages, **launch.ROUNDED}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _stack_bytes(compiled: Any, folder: Path) -> int:
    """What the assembler put on each thread's stack, which is where spilled registers go."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.findall(r"STACK:(\d+)", usage.stdout + usage.stderr)
    assert len(found) == 1, usage
    return int(found[0])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_gemm_multiplies_bytes_on_tensor_cores_and_spills_nothing(capability: int, tmp_path: Path) -> None:
    instruction = r"wgmma\.mma_async[\w.]*\.s32\.s8\.s8" if capability == 90 else r"mma\.sync[\w.]*\.s32\.s8\.s8\.s32"
    tiles = (*launch.TILES, launch.WIDE) if capability == 90 else launch.TILES
    for bm, bn, bk, warps, stages in tiles:
        for split in (0, SAFE_STEPS):
            if split and not launch.has_room(bm, bn, warps):
                continue
            meta = {"FLOAT": True, "BIAS": True, "SPLIT": split, "BM": bm, "BN": bn, "BK": bk}
            compiled = _compile(kernels.conv_int8, {**POINTERS, "x": "*i8"}, meta, capability, warps, stages)
            assert re.search(instruction, compiled.asm["ptx"]), (bm, bn, bk, split)
            assert "fma.rn.f32" not in compiled.asm["ptx"]
            assert _stack_bytes(compiled, tmp_path) == 0, (bm, bn, bk, split)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_expansion_reads_and_writes_words_and_spills_nothing(capability: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-128, 128, (64, 64, 3, 3), generator=generator)
    w[torch.rand(w.shape, generator=generator) < 0.2] = 0
    types = {"x": "*fp32", "y": "*i8", "places": "*i32", "sources": "*i32", "codes": "*i32", "x_inverse": "fp32"}
    for threads, policy in ((1, "A"), (4, "A")):
        layout, _ = lay_out(w.to(torch.int8), SmtSpec(threads, policy), 1, torch.device("cpu"))
        meta = {
            "T": threads, "TAPS": 1, "OPERANDS": layout.operands, "COUNT": layout.count, "QUANTIZE": True,
            "SIGNED": False, "HALF_EVEN": True, "BP": EXPAND_TILE[0], "BC": EXPAND_TILE[1],
        }  # fmt: skip
        compiled = _compile(kernels.quantize_expand, types, meta, capability, 4, 3)
        assert "ld.global.v4.b32" in compiled.asm["ptx"]
        assert re.search(r"st\.global\.(v\d\.)?b32", compiled.asm["ptx"])
        assert _stack_bytes(compiled, tmp_path) == 0, (threads, policy)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_depthwise_kernel_spills_nothing(capability: int, tmp_path: Path) -> None:
    meta = {
        "TAPS": 9, "FLOAT": True, "BIAS": True, "QUANTIZE": True, "SIGNED": False, "BP": DEPTHWISE_TILE[0],
        "BC": DEPTHWISE_TILE[1],
    }  # fmt: skip
    compiled = _compile(kernels.depthwise, {**POINTERS, "x_inverse": "fp32"}, meta, capability, 4, 3)
    assert _stack_bytes(compiled, tmp_path) == 0
