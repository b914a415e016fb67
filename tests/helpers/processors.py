"""Lesser processors than this one: what the environment caps, and a process of its own under such caps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.codegen import get_host_cpu_features

import bnrecal

PACKAGE = Path(bnrecal.__file__).parent
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
# numba takes a processor's name for its scheduling alone: what it may use stands in the features.
HASWELL = "+sse4.2,+ssse3,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2"
SKYLAKE = f"{HASWELL},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"


def _capped(name: str, features: str, onednn: str) -> dict[str, str]:
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "ONEDNN_MAX_CPU_ISA": onednn}


PROCESSORS = {
    "SSE41": {**GENERIC, "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": _capped("haswell", HASWELL, "AVX2"),
    "AVX2_VNNI": _capped("alderlake", f"{HASWELL},+avxvnni", "AVX2_VNNI"),
    "AVX512_CORE": _capped("skylake-avx512", SKYLAKE, "AVX512_CORE"),
    "AVX512_CORE_VNNI": _capped("cascadelake", f"{SKYLAKE},+avx512vnni", "AVX512_CORE_VNNI"),
}
# As AVX2_VNNI, on processors that have those 256-bit instructions in AVX-512's form alone.
NARROW_VNNI = _capped("cascadelake", f"{HASWELL},+avx512f,+avx512vl,+avx512vnni", "AVX512_CORE_VNNI")
NEEDED = {
    "SSE41": "sse4.1",
    "AVX2": "avx2",
    "AVX2_VNNI": "avxvnni",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512vnni",
}
HAS = get_host_cpu_features().split(",")  # type: ignore[no-untyped-call]


def skip_if_missing(processor: str) -> None:
    """Skip the test where this processor lacks what it is to run with."""
    if NEEDED[processor] not in [feature.lstrip("+") for feature in HAS]:
        pytest.skip(f"this processor has no {NEEDED[processor]}")


def run(arguments: list[str], environment: dict[str, str], package: Path = PACKAGE) -> str:
    """What `python -c` prints with this source and these arguments; its error fails the test."""
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout
