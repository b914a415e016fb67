"""The kernels in processes of their own: on lesser processors, without numba, after an edit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numba.core.codegen import get_host_cpu_features

import bnrecal
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu.conv import kernels_compile
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES

PACKAGE = Path(bnrecal.__file__).parent
# Every thread count and policy with every backend there is, on layers that golden results came with.
CHECK = """
import json, sys, torch
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu.conv import kernels_compile
from bnrecal.nbsmt.cpu.onednn import Exactness, onednn_exactness
from bnrecal.nbsmt.spec import SmtSpec
backends = ["float32"] + ["onednn-int8"] * (onednn_exactness() is not Exactness.NONE)
for case in torch.load(sys.argv[1]):
    for backend in [*backends, None]:
        options = {name: case[name] for name in ("stride", "padding", "dilation", "groups")}
        with torch.backends.mkldnn.flags(enabled=backend != "float32"):
            prepared = PreparedConv2d(case["w"], SmtSpec(*case["spec"]), backend=backend, **options)
            assert torch.equal(prepared.accumulate(case["x"]), case["sums"]), (backend, case["spec"])
print(json.dumps({"kernels": kernels_compile(), "exactness": onednn_exactness().value}))
"""
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
PROCESSORS = {
    "SSE41": {**GENERIC, "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX2_VNNI": {"NUMBA_CPU_NAME": "alderlake", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    "AVX512_CORE": {"NUMBA_CPU_NAME": "skylake-avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX512_CORE_VNNI": {"NUMBA_CPU_NAME": "cascadelake", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
}
NEEDED = {
    "SSE41": "sse4.1",
    "AVX2": "avx2",
    "AVX2_VNNI": "avxvnni",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512vnni",
}
HAS = get_host_cpu_features().split(",")  # type: ignore[no-untyped-call]


def run(arguments: list[str], environment: dict[str, str], package: Path = PACKAGE) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cases(path: Path) -> Path:
    """Layers with their golden sums: some by the plain form, which other tests compare with the golden model."""
    generator, found = torch.Generator().manual_seed(0), []
    for spec in [(1,), (2,), (4,), *((threads, policy) for threads in (2, 4) for policy in POLICIES[1:])]:
        for shape, kernel, options in (
            ((16, 16, 6, 6), (20, 16, 3, 3), {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}),
            ((2, 24, 7, 7), (6, 8, 3, 2), {"stride": 2, "padding": 1, "dilation": 2, "groups": 3}),
            ((3, 20, 9, 8), (20, 1, 3, 3), {"stride": 1, "padding": 1, "dilation": 1, "groups": 20}),
        ):
            x = torch.randint(0, 256, shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.7)
            w = torch.randint(-128, 128, kernel, generator=generator)
            w[0], w[1, ::2] = -128, 127
            w *= torch.rand(w.shape, generator=generator) < 0.9
            prepared = PreparedConv2d(w.to(torch.int8), SmtSpec(*spec), backend="float64", **options)  # type: ignore[arg-type]
            sums = prepared.accumulate(x.byte())
            found.append({"spec": spec, "x": x.byte(), "w": w.to(torch.int8), "sums": sums, **options})
    torch.save(found, path)
    return path


@pytest.mark.parametrize("processor", PROCESSORS)
def test_lesser_processors_compute_the_same(processor: str, tmp_path: Path) -> None:
    if NEEDED[processor] not in [feature.lstrip("+") for feature in HAS]:
        pytest.skip(f"this processor has no {NEEDED[processor]}")
    found = json.loads(run([CHECK, str(cases(tmp_path / "cases.pt"))], PROCESSORS[processor]))
    assert found["kernels"] == kernels_compile()
    if processor in ("SSE41", "AVX2", "AVX512_CORE"):
        assert found["exactness"] != "full"


SUM = """
import torch
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu.conv import kernels_compile
from bnrecal.nbsmt.spec import SmtSpec
w = torch.arange(-64, 64).view(4, 8, 2, 2).to(torch.int8)
y = PreparedConv2d(w, SmtSpec(4))(torch.arange(200).float().view(1, 8, 5, 5), 1.0, torch.ones(4))
print(kernels_compile(), float(y.double().sum()))
"""


def true_sum() -> float:
    w = torch.arange(-64, 64).view(4, 8, 2, 2).to(torch.int8)
    x = torch.arange(200).float().view(1, 8, 5, 5)
    return float(PreparedConv2d(w, SmtSpec(4), backend="float64")(x, 1.0, torch.ones(4)).double().sum())


@pytest.mark.parametrize("trouble", ["no jit", "no cache folder"])
def test_numba_in_trouble(trouble: str, tmp_path: Path) -> None:
    environment = {"NUMBA_DISABLE_JIT": "1"}
    if trouble == "no cache folder":
        (tmp_path / "file").touch()
        environment = {
            "NUMBA_CACHE_DIR": str(tmp_path / "file" / "below"),
            "NUMBA_CACHE_LOCATOR_CLASSES": "UserWideCacheLocator",
        }
    compiled, total = run([SUM], environment).split()
    assert float(total) == true_sum()
    assert compiled == str(trouble == "no cache folder")


@pytest.mark.skipif(not kernels_compile(), reason="numba is switched off")
def test_an_edited_helper_is_compiled_again(tmp_path: Path) -> None:
    package = tmp_path / "edited" / "bnrecal"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.pth", "__pycache__"))
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    before = run([SUM], environment, package).split()[1]
    assert float(before) == true_sum()
    helper = package / "nbsmt" / "cpu" / "vectors.py"
    assert "splat(240)), a, splat(240))" in helper.read_text()
    helper.write_text(helper.read_text().replace("splat(240)), a, splat(240))", "splat(240)), a, splat(208))"))
    after = run([SUM.replace("arange(200)", "arange(56, 256)")], environment, package).split()[1]
    honest = run([SUM.replace("arange(200)", "arange(56, 256)")], {}).split()[1]
    assert after != honest
