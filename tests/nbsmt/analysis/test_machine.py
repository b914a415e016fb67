"""Every run can say what does its sums, and why slowly."""

from dataclasses import replace

import pytest
import torch
from helpers.fake_cuda import simulated

from bnrecal.nbsmt.analysis import machine
from bnrecal.nbsmt.analysis.machine import describe_engine, instruction_set, processor_name
from bnrecal.nbsmt.engines.cpu.onednn import Exactness
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")


def test_it_names_what_layers_run_on() -> None:
    layer = PreparedConv2d(torch.ones(4, 4, 3, 3, dtype=torch.int8), SmtSpec(4))
    assert describe_engine(CPU).startswith(layer.engine_name)
    assert processor_name()
    assert instruction_set()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (SmtSpec(4, saturate=False), "float32 (slow: without saturation operands leave 8 bits)"),
        (SmtSpec(4, policy="helpers.policies:DROP"), "float32 (slow: a policy given as tables)"),
    ],
)
def test_it_names_what_runs_an_unusual_machine(spec: SmtSpec, said: str) -> None:
    assert describe_engine(CPU, spec) == said
    with simulated(1):
        assert describe_engine(GPU, spec) == said
    one = replace(spec, threads=1)
    assert describe_engine(CPU, one) == describe_engine(CPU)
    with simulated(1):
        assert describe_engine(GPU, one) == describe_engine(GPU) == "triton-int8"


def test_one_thread_without_saturation_is_an_ordinary_layer() -> None:
    with simulated(1):
        spec = SmtSpec(1, saturate=False)
        layer = PreparedConv2d(torch.full((4, 4, 3, 3), -128, dtype=torch.int8), spec, device=GPU)
        assert layer.engine_name == "triton-int8"
        x = torch.full((1, 4, 3, 3), 255, dtype=torch.uint8)
        sums = layer.accumulate(x.to(GPU)).flatten().tolist()
    assert sums == 4 * [4 * 9 * 255 * -128]


def test_it_says_why_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "kernels_compile", lambda: True)
    monkeypatch.setattr(machine, "onednn_exactness", lambda: Exactness.NONE)
    monkeypatch.setattr(machine, "onednn_trial", lambda: (Exactness.NONE, "no such thing"))
    assert describe_engine(CPU) == "float32 (slower: no such thing)"
    monkeypatch.setattr(machine, "kernels_compile", lambda: False)
    assert "numba" in describe_engine(CPU)


def test_a_cap_on_onednn_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert instruction_set().endswith("(oneDNN capped at AVX2)")
