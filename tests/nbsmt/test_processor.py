"""Every run can say what does its sums, and why slowly."""

import pytest
import torch

from bnrecal.nbsmt import processor
from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu.onednn import Exactness
from bnrecal.nbsmt.processor import describe_backend, instruction_set, processor_name
from bnrecal.nbsmt.spec import SmtSpec

CPU = torch.device("cpu")


def test_it_names_what_layers_run_on() -> None:
    layer = PreparedConv2d(torch.ones(4, 4, 3, 3, dtype=torch.int8), SmtSpec(4))
    assert describe_backend(CPU).startswith(layer.backend)
    assert processor_name()
    assert instruction_set()


def test_it_says_why_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "kernels_compile", lambda: True)
    monkeypatch.setattr(processor, "onednn_exactness", lambda: Exactness.NONE)
    monkeypatch.setattr(processor, "onednn_trial", lambda: (Exactness.NONE, "no such thing"))
    assert describe_backend(CPU) == "float32 (slower: no such thing)"
    monkeypatch.setattr(processor, "kernels_compile", lambda: False)
    assert "numba" in describe_backend(CPU)


def test_a_cap_on_onednn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert instruction_set().endswith("(oneDNN capped at AVX2)")
