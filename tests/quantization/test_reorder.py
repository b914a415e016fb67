from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.nets import images, tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bnrecal.nbsmt import reference
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import ConvInfo, calibrate
from bnrecal.quantization.intercept import ConvCall
from bnrecal.quantization.layer_plan import LayerPlan
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d
from bnrecal.quantization.reorder import (
    COSTS,
    Marks,
    can_reorder,
    channel_permutation,
    gather_activity,
    random_permutation,
)


def with_info() -> tuple[nn.Module, ConvInfo]:
    """A network and its convolution conv2: 8 channels of 3x3, 16 filters, stride 2."""
    network = tiny()
    return network, next(conv for conv in calibrate(network, [images(8)]) if conv.name == "conv2")


def cost_of(active: Marks, order: list[int], threads: int, how: str) -> float:
    """Counted step by step."""
    total = 0.0
    for pixel in active.tolist():
        parts = [pixel[c] for c in order]
        steps = len(order) // threads
        for j in range(steps):
            total += COSTS[how][int(sum(parts[t * steps + j] for t in range(threads)))]
    return total


@pytest.mark.parametrize("threads", [2, 4])
def test_a_reordered_layer_equals_the_golden_model_with_the_same_permutation(threads: int) -> None:
    network, conv = with_info()
    order = torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])
    plain = NBSMTConv2d(conv, SmtSpec(threads), signed=False, act_range="max")
    layer = NBSMTConv2d(conv, SmtSpec(threads), signed=False, act_range="max", permutation=order)
    assert torch.equal(layer.weight, plain.weight)
    x = torch.relu(network.bn1(network.stem(images(1)))).detach()  # type: ignore[operator]
    call = ConvCall(x, conv.weight, None, conv.geometry)
    levels = quantize_activation(x, layer.input_scale)
    sums = reference.conv2d(levels[:, order], layer.weight[:, order], threads=threads, stride=(2, 2), padding=(1, 1))
    steps = (layer.input_scale * layer.weight_scale).view(1, -1, 1, 1)
    assert torch.allclose((layer(call) / steps).double(), sums.double(), rtol=1e-5, atol=1e-2)
    assert not torch.allclose(plain(call) / steps, layer(call) / steps, atol=0.5)


@given(
    seed=st.integers(0, 1000),
    threads=st.sampled_from([2, 4]),
    sets=st.integers(1, 4),
    how=st.sampled_from(sorted(COSTS)),
)
def test_an_order_is_a_permutation_that_costs_no_more(seed: int, threads: int, sets: int, how: str) -> None:
    generator = np.random.default_rng(seed)
    share = generator.uniform(0, 1, threads * sets)
    active = (generator.uniform(size=(32, threads * sets)) < share).astype(np.float32)
    order = channel_permutation(active, threads, how).tolist()
    identity = list(range(threads * sets))
    assert sorted(order) == identity
    found = cost_of(active, order, threads, how)
    assert found <= cost_of(active, identity, threads, how)
    for a in identity:  # no single swap of two channels is any better
        for b in identity[:a]:
            swapped = list(order)
            swapped[a], swapped[b] = swapped[b], swapped[a]
            assert cost_of(active, swapped, threads, how) >= found


@pytest.mark.parametrize("threads", [2, 4])
def test_channels_that_exclude_each_other_become_partners(threads: int) -> None:
    generator = np.random.default_rng(0)
    sets = 6
    active = np.zeros((200, threads * sets), np.float32)
    names = generator.permutation(threads * sets).reshape(sets, threads)  # of each set at most one is ever active
    for pixel in range(200):
        for members in names:
            active[pixel, generator.choice(members)] = 1
    order = channel_permutation(active, threads, "bits")
    assert cost_of(active, order.tolist(), threads, "bits") == 0
    found = {frozenset(column) for column in order.reshape(threads, sets).T.tolist()}
    assert found == {frozenset(members) for members in names.tolist()}


def test_a_random_order_follows_from_its_number() -> None:
    order = random_permutation(16, 3)
    assert sorted(order.tolist()) == list(range(16))
    assert torch.equal(order, random_permutation(16, 3))
    assert not torch.equal(order, random_permutation(16, 4))


def test_activity_is_that_of_the_quantized_inputs() -> None:
    network, conv = with_info()
    marks = gather_activity(network, [conv], [images(2)], "max")["conv2"]
    x = torch.relu(network.bn1(network.stem(images(2))))  # type: ignore[operator]
    layer = NBSMTConv2d(conv, SmtSpec(4), signed=False, act_range="max")
    active = quantize_activation(x, layer.input_scale) != 0
    assert marks.shape == (2 * 12 * 12, 8)  # all pixels: fewer than are looked at
    assert marks.mean(0) == pytest.approx(active.float().mean((0, 2, 3)).numpy())
    assert 0 < marks.mean() < 1
    assert not any("forward" in vars(module) for module in network.modules())


def test_which_layers_have_an_order() -> None:
    _, conv = with_info()
    assert can_reorder(LayerPlan(conv, 4, False))
    assert not can_reorder(LayerPlan(conv, 1, False))
    assert not can_reorder(LayerPlan(conv, 0, False))
    assert not can_reorder(LayerPlan(replace(conv, geometry=replace(conv.geometry, groups=2)), 4, False))
    assert not can_reorder(LayerPlan(replace(conv, weight=conv.weight[:, :6]), 4, False))


def test_channels_that_nothing_tells_apart_stay_where_they_are() -> None:
    active = np.ones((9, 8), np.float32)
    assert channel_permutation(active, 4, "bits").tolist() == list(range(8))
