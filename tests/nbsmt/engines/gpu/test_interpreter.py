"""Runs the kernels' cases in Triton's interpreter, which must be chosen before Triton is imported."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip("triton", reason="torch brings no Triton here: the GPU kernels are not tested")
# Up to Triton 3.6 its interpreter makes numbers of arrays of one element, of which NumPy warns, and which it refuses
# since 2.4.
OLD = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)
WARNED = ("-W", "ignore:Conversion of an array:DeprecationWarning") if OLD else ()
CASES = [Path(__file__).with_name(name) for name in ("interpreter_cases.py", "interpreter_end_cases.py")]
PROCESSES = 2  # so that two workers share them


def _cases() -> list[str]:
    """Return the cases as pytest names them; to import them here would choose Triton's compiler."""
    named = []
    for file in CASES:
        functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
        named += [f"{file}::{function.name}" for function in functions if function.name.startswith("test_")]
    return named


@pytest.mark.usefixtures("several_processes")
@pytest.mark.parametrize("process", range(PROCESSES))
def test_kernels_equal_the_golden_model_in_the_interpreter(process: int, tmp_path: Path) -> None:
    chosen = _cases()[process::PROCESSES]
    alone = ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'own'}", *WARNED]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *alone, *chosen],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if OLD and "can be converted to Python scalars" in run.stdout:
        pytest.skip(f"the interpreter of Triton {triton.__version__} does not run with NumPy {np.__version__}")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " skipped" not in run.stdout
