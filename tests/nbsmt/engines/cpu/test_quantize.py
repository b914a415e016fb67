"""The quantizing kernel against its definition in plain torch."""

import pytest
import torch
from helpers.smt_cases import specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.decompose.expansion import Expansion, expand_activations
from bnrecal.nbsmt.decompose.operands import Operand, full_pattern, operands_of
from bnrecal.nbsmt.engines.cpu.kernels import quantize, runtime
from bnrecal.nbsmt.engines.cpu.quantizer import Quantizer
from bnrecal.nbsmt.spec import SmtSpec

pytestmark = pytest.mark.skipif(quantize.kernel() is None, reason="numba is switched off")


def defined(levels: Tensor, operands: tuple[Operand, ...], spec: SmtSpec, groups: int) -> Tensor:
    """Two and two operands alternating, within each group."""
    channels = levels.shape[1] // groups
    sent = [
        expand_activations(levels, Expansion(channels, (operand,), (), channels), spec, groups) for operand in operands
    ]
    split = [one.view(len(one), groups, channels, *one.shape[2:]) for one in sent]
    blocks = [torch.stack(split[at : at + 2], 3).flatten(2, 3) for at in range(0, len(split), 2)]
    return torch.cat(blocks, 2).flatten(1, 2)


@settings(max_examples=120)
@given(
    specs(),
    st.integers(1, 3),
    st.sampled_from([4, 8, 20, 60, 64, 68, 128, 196]),
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from([0.5, 3.0, 10.0]),
    st.integers(0, 2**16),
)
def test_equals_its_definition(
    spec: SmtSpec, groups: int, channels: int, size: tuple[int, int, int], spread: float, seed: int
) -> None:
    spec = SmtSpec(spec.threads, spec.policy, spec.sparsity, spec.rounding)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size[0], groups * channels, size[1], size[2], generator=generator) * spread
    x *= torch.rand(x.shape, generator=generator) < 0.6
    x.flatten()[0] = float("nan")
    operands = tuple(operands_of(full_pattern(spec.threads), spec))
    quantizer = Quantizer(operands, spec, channels, groups)
    for signed in (False, True) if spec.threads == 1 else (False,):
        wanted = quantize_activation(x, 0.02, signed)
        levels, expanded = quantizer(x, 0.02, signed)
        assert torch.equal(levels.short(), wanted.short() + 128 * signed)
        if not signed:
            assert torch.equal(expanded.short(), defined(wanted, operands, spec, groups))
        again, _ = quantizer(wanted, 1.0, signed)
        assert torch.equal(again.short(), wanted.short() + 128 * signed)


def test_buffers_made_in_inference_mode_serve_outside_of_it() -> None:
    levels = torch.randint(0, 256, (1, 4, 3, 3)).to(torch.uint8)
    quantizer = Quantizer((), SmtSpec(1), 4, 1)
    vars(runtime._local).clear()
    with torch.inference_mode():
        quantizer(levels.float(), 1.0, False)
    assert torch.equal(quantizer(levels, 1.0, False)[0], levels)


@pytest.mark.parametrize("torchs_team", [True, False])
def test_any_number_of_workers(torchs_team: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torchs_team:
        monkeypatch.setattr(runtime, "_torch_team", lambda: None)
    spec = SmtSpec(4)
    operands = tuple(operands_of(full_pattern(4), spec))
    quantizer = Quantizer(operands, spec, 20, 1)
    quantizer.own.args["block"] = quantizer.block = 3
    x = torch.rand(3, 20, 17, 5)
    wanted = defined(quantize_activation(x, 0.01), operands, spec, 1)
    for workers in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda workers=workers: workers)
        assert torch.equal(quantizer(x, 0.01, False)[1].short(), wanted)
