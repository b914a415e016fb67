"""The dense part and the sparse one add up to the golden model, and the dense part keeps its promise about pairs."""

import pytest
import torch
import torch.nn.functional as F
from helpers.smt_cases import Layer, expected, layers, specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import DenseShare, DenseSparse, decompose_weights
from bnrecal.nbsmt.decompose.expansion import Expansion, expand_activations
from bnrecal.nbsmt.decompose.operands import ACTIVATION, NOTHING, Operand, fold_taps
from bnrecal.nbsmt.policies.builtin import POLICIES, Value
from bnrecal.nbsmt.spec import SmtSpec


def send(x: Tensor, operand: Operand, spec: SmtSpec) -> Tensor:
    plan = Expansion(x.shape[1], (operand,), (), x.shape[1])
    return expand_activations(x, plan, spec).double()


def add_up(split: DenseSparse, x: Tensor, spec: SmtSpec, w: Tensor) -> Tensor:
    """What the split computes of one group, in float64."""
    filters, channels, kh, kw = w.shape
    total = torch.zeros(1, filters, x.shape[2] - kh + 1, x.shape[3] - kw + 1, dtype=torch.float64)
    if split.weight is not None:
        blocks = []
        for at in range(0, len(split.operands), 2):
            pair = [send(x, operand, spec) for operand in split.operands[at : at + 2]]
            blocks.append(torch.stack(pair, 2).flatten(1, 2))
        total += F.conv2d(torch.cat(blocks, 1), split.weight.double())
    sparse = split.sparse
    for index, kind in enumerate(sparse.kinds):
        chosen = sparse.kind == index
        places = (sparse.filters[chosen], sparse.channels[chosen], sparse.taps[chosen])
        for side, operand in enumerate(kind):
            weight = torch.zeros(filters, channels, kh * kw, dtype=torch.float64)
            weight.index_put_(places, sparse.weights[chosen][:, side].double(), accumulate=True)
            total += F.conv2d(send(x, operand, spec), weight.view(w.shape))
    return total


@settings(max_examples=150)
@given(layers(), specs(), st.booleans(), st.sampled_from(DenseShare))
def test_parts_add_up_to_the_golden_model(layer: Layer, spec: SmtSpec, paired: bool, dense: DenseShare) -> None:
    x, w, _, _ = layer
    spec = SmtSpec(spec.threads, spec.policy, spec.sparsity, spec.rounding)
    if w.shape[1] % spec.threads:
        return
    x = x[:1, : w.shape[1]]
    plain = dict.fromkeys(("stride", "dilation"), (1, 1)) | {"padding": (0, 0)}
    split = decompose_weights(w, spec, paired=paired, dense=dense)
    found = add_up(split, x, spec, w)
    assert torch.equal(found.to(torch.int32), expected((x, w, plain, 1), spec))
    assert (dense is not DenseShare.NONE) == bool(split.operands)
    assert split.sparse.weights.abs().max() <= 128 if len(split.sparse) else True
    if paired and split.operands:
        check_pairs(split, w.shape[1])


def check_pairs(split: DenseSparse, channels: int) -> None:
    """No two neighbours can add up to 2^15, whatever activation, and number of active partners, they meet."""
    assert split.weight is not None
    weight = split.weight.flatten(2).long()
    for at in range(0, len(split.operands), 2):
        couple = split.operands[at : at + 2]
        pairs = weight[:, at * channels : (at + len(couple)) * channels]
        pairs = pairs[:, : pairs.shape[1] // 2 * 2].view(len(pairs), -1, 2, pairs.shape[2])
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        if len(couple) == 2 and couple[0].excludes(couple[1]):
            assert 255 * max(first.abs().max(), second.abs().max()) < 2**15
        elif first.numel():
            positive = first.clamp(min=0) + second.clamp(min=0)
            negative = first.clamp(max=0) + second.clamp(max=0)
            assert 255 * positive.max() < 2**15
            assert 255 * negative.min() >= -(2**15)


def random_weights(zeros: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(64, 64, 3, 3, generator=generator)
    w = (w / w.abs().amax((1, 2, 3), keepdim=True) * 127.5).round().clamp(-128, 127)
    w = torch.where(w == 0, 1, w) * (torch.rand(w.shape, generator=generator) >= zeros)
    return w.to(torch.int8)


def test_real_weights_need_two_dense_channels_and_a_short_list() -> None:
    four = decompose_weights(random_weights(0.02), SmtSpec(4), paired=True)
    assert len(four.operands) == 2
    # Pairs of r(a) * b and r(a) * e(b) fit 16 bits as they are: only weights that lack a partner are sparse.
    assert len(four.sparse) / 64**2 / 9 == pytest.approx(0.02 * 3 * 0.98, abs=0.006)
    assert len(decompose_weights(random_weights(0.0), SmtSpec(4), paired=True).sparse) == 0
    two = decompose_weights(random_weights(0.02), SmtSpec(2), paired=True)
    assert len(two.operands) == 1
    assert 0.02 < len(two.sparse) / 64**2 / 9 < 0.04
    assert len(decompose_weights(random_weights(0.02), SmtSpec(1), paired=False).sparse) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_one_thread_sends_the_activations(policy: str) -> None:
    for sparsity in (True, False):
        split = decompose_weights(random_weights(0.1), SmtSpec(1, policy, sparsity), paired=False)
        assert split.plain
        assert split.weight is not None
        assert torch.equal(split.weight, random_weights(0.1))


def test_zero_neighbours_leave_nothing_to_list() -> None:
    w = random_weights(0.02)
    assert len(decompose_weights(w, SmtSpec(1), paired=True).sparse)
    spread = decompose_weights(w, SmtSpec(1), paired=True, dense=DenseShare.ALL)
    assert not len(spread.sparse)
    assert spread.operands == (ACTIVATION, NOTHING)
    both = decompose_weights(w, SmtSpec(2), paired=True, dense=DenseShare.ALL)
    assert len(both.operands) == 2
    assert not len(both.sparse)


def test_operands_that_exclude_each_other() -> None:
    zero, exact, narrow, wide = Value.ZERO, Value.EXACT, Value.NARROW, Value.WIDE
    first = Operand(1, (exact, narrow, zero))
    second = Operand(1, (zero, wide, exact))
    assert first.excludes(second)
    assert not first.excludes(Operand(2, (zero, wide, exact)))
    assert not first.excludes(Operand(1, (zero, exact, exact)))
    assert not ACTIVATION.excludes(ACTIVATION)


def test_columns_where_channels_do_not_divide() -> None:
    w = torch.arange(2 * 3 * 3).view(2, 3, 3, 1).to(torch.int8)
    assert fold_taps(w, 4).shape == (2, 12, 1, 1)
    assert fold_taps(w, 1) is w
