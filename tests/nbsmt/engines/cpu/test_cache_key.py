"""Kernels are compiled again after any edit that changes them, and kept otherwise."""

import shutil
from pathlib import Path

import pytest
from helpers.processors import PACKAGE, run
from llvmlite import binding

from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.cpu.kernels import cache_key, channel_sums

pytestmark = pytest.mark.skipif(not kernels_compile(), reason="numba is switched off")
OPERANDS = """
import torch
from bnrecal.nbsmt.decompose.operands import operands_of
from bnrecal.nbsmt.engines.cpu.kernels.quantize import kernel
from bnrecal.nbsmt.engines.cpu.quantizer import Quantizer
from bnrecal.nbsmt.spec import SmtSpec
x = (torch.arange(8 * 64) * 91 % 256).view(2, 64, 2, 2).to(torch.uint8)
_, made = Quantizer(tuple(operands_of(7, SmtSpec(4))), SmtSpec(4), 64, 1)(x, 1.0, False)
print(bytes(made.permute(0, 2, 3, 1).flatten().tolist()).hex(), kernel().cache_hits)
"""
MOMENTS = """
import torch
from bnrecal.batchnorm.moments import batch_moments
from bnrecal.nbsmt.engines.cpu.kernels.channel_sums import moments_kernel
x = (torch.arange(2**19) % 7).float().view(2**19, 1)
print(moments_kernel() is not None, float(batch_moments(x).mean[0]) == float(x.double().mean()))
"""


def copy_of_the_package(folder: Path) -> Path:
    package = folder / "bnrecal"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.pth", "__pycache__"))
    return package


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.usefixtures("several_processes")
def test_an_edited_member_of_the_enum_that_kernels_are_made_from(tmp_path: Path) -> None:
    package = copy_of_the_package(tmp_path)
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    made, hits = run([OPERANDS], environment, package).split()
    assert hits == "0"
    assert run([OPERANDS], environment, package).split() == [made, "1"]  # kept
    policies = package / "nbsmt" / "policies" / "builtin.py"
    edit(policies, "    WIDE = 4", '    WIDE_REDUCED = 5, "0", "r"\n    WIDE = 4')  # kernels count members
    edit(policies, 'REDUCED = 2, "r", "r"', 'REDUCED = 2, "r", "0"')  # and compute what each of them says
    other, hits = run([OPERANDS], environment, package).split()
    assert hits == "0"
    assert set(bytes.fromhex(other)) < set(bytes.fromhex(made))  # r(a) of a wide a is gone


@pytest.mark.usefixtures("several_processes")
def test_an_edited_helper_of_moments(tmp_path: Path) -> None:
    package = copy_of_the_package(tmp_path)
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert run([MOMENTS], environment, package).split() == ["True", "True"]
    one = 'builder.atomic_rmw("add", word, ir.Constant(_WORD, 1)'
    vectors = package / "nbsmt" / "engines" / "cpu" / "kernels" / "simd_u8.py"
    edit(vectors, one, one.replace("1)", "2)"))  # every other block is left out
    assert run([MOMENTS], environment, package).split() == ["True", "False"]


def test_another_compiler_or_processor_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for name, value in (
        ("numba_version", "0.0.1"),
        ("get_host_cpu_features", lambda: "+none"),
        ("PACKAGE", "bnrecal"),  # nothing else
    ):
        with monkeypatch.context() as changed:
            changed.setattr(cache_key, name, value)
            keys.add(cache_key.cache_key.__wrapped__(channel_sums.__name__))
    with monkeypatch.context() as changed:
        changed.setattr(binding, "llvm_version_info", (0, 0, 1))
        keys.add(cache_key.cache_key.__wrapped__(channel_sums.__name__))
    assert len(keys) == 4


def test_the_sources_of_a_kernel_are_what_its_module_imports() -> None:
    names = {
        path.relative_to(PACKAGE).as_posix() for path in cache_key.sources("bnrecal.nbsmt.engines.cpu.kernels.quantize")
    }
    assert {
        "nbsmt/engines/cpu/kernels/quantize.py",
        "nbsmt/engines/cpu/kernels/operand_select.py",
        "nbsmt/engines/cpu/kernels/simd_u8.py",
        "nbsmt/policies/builtin.py",
    } <= names
    assert not {"nbsmt/engines/cpu/quantizer.py", "nbsmt/engines/cpu/cost_model.py", "batchnorm/moments.py"} & names
