"""The one-pass kernel against its definition in plain torch, and what happens where it cannot compile."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers.smt_cases import specs
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrecal.nbsmt import expansion as expansion_module
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu import fused, kernels, team
from bnrecal.nbsmt.expansion import expand_activations, plan_expansion
from bnrecal.nbsmt.spec import SmtSpec

needs_numba = pytest.mark.skipif(kernels.worker() is None, reason="numba is switched off")


@needs_numba
@settings(max_examples=120)
@given(
    specs(),
    st.integers(1, 3),
    st.sampled_from([4, 8, 20, 60, 64, 68, 128, 196]),
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from([0.5, 3.0, 10.0]),
    st.tuples(st.sampled_from([0.02, 0.1, 0.4, 0.95]), st.sampled_from([1, 64])),
    st.integers(0, 2**16),
)
def test_equals_its_definition(
    spec: SmtSpec,
    groups: int,
    channels: int,
    size: tuple[int, int, int],
    spread: float,
    zeros_block: tuple[float, int],
    seed: int,
) -> None:
    spec = SmtSpec(spec.threads, spec.policy, spec.sparsity, spec.rounding)
    generator = torch.Generator().manual_seed(seed)
    w = torch.randint(-128, 128, (3 * groups, channels, 1, 1), generator=generator)
    w *= torch.rand(w.shape, generator=generator) >= zeros_block[0]
    x = torch.randn(size[0], groups * channels, size[1], size[2], generator=generator) * spread
    x *= torch.rand(x.shape, generator=generator) < 0.6
    x.flatten()[0] = float("nan")
    with mock.patch.object(expansion_module, "BLOCK", zeros_block[1]):
        plan = plan_expansion(w.to(torch.int8), spec)
    expansion = fused.FusedExpansion(plan, spec, groups)
    for signed in (False, True) if spec.threads == 1 else (False,):
        defined = expand_activations(quantize_activation(x, 0.02, signed), plan, spec, groups)
        assert torch.equal(expansion(x, 0.02, signed).short(), defined + 128 * signed)


@needs_numba
@pytest.mark.parametrize("torchs_team", [True, False])
def test_any_number_of_workers(torchs_team: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torchs_team:
        monkeypatch.setattr(team, "_torch_team", lambda: None)
    spec = SmtSpec(4)
    plan = plan_expansion(torch.ones(1, 20, 1, 1, dtype=torch.int8), spec)
    expansion = fused.FusedExpansion(plan, spec, 1)
    expansion.job[kernels.Job.BLOCK] = 3
    x = torch.rand(3, 20, 17, 5)
    defined = expand_activations(quantize_activation(x, 0.01), plan, spec)
    for workers in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda workers=workers: workers)
        assert torch.equal(expansion(x, 0.01).short(), defined)


def test_plain_torch_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randint(-128, 128, (8, 16, 3, 3), generator=generator).to(torch.int8)
    x, scale = torch.rand(2, 16, 9, 9, generator=generator), torch.rand(8, generator=generator)
    quick = PreparedConv2d(w, SmtSpec(4), padding=1)(x, 1 / 300, scale)
    monkeypatch.setattr(kernels, "worker", lambda: None)
    assert torch.equal(PreparedConv2d(w, SmtSpec(4), padding=1)(x, 1 / 300, scale), quick)


SCRIPT = """
import torch
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.nbsmt.cpu import kernels
w = torch.arange(-64, 64).view(4, 8, 2, 2).to(torch.int8)
y = PreparedConv2d(w, SmtSpec(4))(torch.arange(200).float().view(1, 8, 5, 5), 1.0, torch.ones(4))
print(kernels.worker() is not None, float(y.double().sum()))
"""


@pytest.mark.parametrize("trouble", ["no jit", "no cache folder"])
def test_numba_in_trouble(trouble: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(fused.__file__).parents[3])}
    if trouble == "no jit":
        environment["NUMBA_DISABLE_JIT"] = "1"
    else:
        (tmp_path / "file").touch()
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "file" / "below")
        environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "UserWideCacheLocator"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    compiled, total = done.stdout.split()
    w = torch.arange(-64, 64).view(4, 8, 2, 2).to(torch.int8)
    x = torch.arange(200).float().view(1, 8, 5, 5)
    expected = PreparedConv2d(w, SmtSpec(4), backend="float64")(x, 1.0, torch.ones(4))
    assert float(total) == float(expected.double().sum())
    assert compiled == "False" or trouble == "no cache folder"
