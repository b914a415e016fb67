"""Counts against a walk through every processing element."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from helpers.smt_cases import Layer, expected, layers, specs
from hypothesis import given, settings

from bnrecal.nbsmt.analysis.collisions import CollisionStatistics, collision_statistics
from bnrecal.nbsmt.policies.builtin import built_in
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.reference import reduced_activation, reduced_weight
from bnrecal.nbsmt.spec import SmtSpec

Pairs = list[tuple[int, int]]


def steps_of(layer: Layer, spec: SmtSpec) -> list[Pairs]:
    """Every step of every output: the (a, b) of its active threads."""
    x, w, g, groups = layer
    (down, right), (kh, kw) = g["padding"], w.shape[2:]
    padded = F.pad(x, (right, right, down, down))
    high, wide = (
        (padded.shape[2 + d] - g["dilation"][d] * (w.shape[2 + d] - 1) - 1) // g["stride"][d] + 1 for d in range(2)
    )
    steps, per_group = [], w.shape[1]
    for n, o, i, j in product(range(len(x)), range(len(w)), range(high), range(wide)):
        first = o // (len(w) // groups) * per_group
        top, left = i * g["stride"][0], j * g["stride"][1]
        rows = slice(top, top + g["dilation"][0] * (kh - 1) + 1, g["dilation"][0])
        columns = slice(left, left + g["dilation"][1] * (kw - 1) + 1, g["dilation"][1])
        a = padded[n, first : first + per_group, rows, columns].flatten().tolist()
        b = w[o].flatten().tolist()
        length = -(-len(a) // spec.threads)
        a, b = (v + [0] * (length * spec.threads - len(v)) for v in (a, b))
        for s in range(length):
            pairs = [(a[t * length + s], b[t * length + s]) for t in range(spec.threads)]
            steps.append([(p, q) for p, q in pairs if not spec.sparsity or (p and q)])
    return steps


def losses(active: Pairs, spec: SmtSpec) -> tuple[int, int]:
    """How many activations and weights of one step lose bits."""
    of_a = of_b = 0
    for a, b in active:
        lossy_a = reduced_activation(a, spec.rounding, spec.saturate) != a
        lossy_b = reduced_weight(b, spec.rounding, spec.saturate) != b
        two = len(active) == 2
        more = len(active) > 2
        rule = built_in(spec.policy).collide
        own = a or 1, b or 1  # as narrow as a 0, and not lost in a product
        of_a += lossy_a and (more or (two and rule(*own, 2, 1) != rule(*own, 3, 1)))  # does r(a) matter?
        of_b += lossy_b and (more or (two and rule(*own, 1, 2) != rule(*own, 1, 3)))
    return of_a, of_b


def prepare(layer: Layer, spec: SmtSpec) -> PreparedConv2d:
    _, w, g, groups = layer
    return PreparedConv2d(w, spec, stride=g["stride"], padding=g["padding"], dilation=g["dilation"], groups=groups)


@settings(max_examples=80)
@given(layers(), specs())
def test_counts_of_every_step(layer: Layer, spec: SmtSpec) -> None:
    found = collision_statistics(prepare(layer, spec), layer[0])
    steps = steps_of(layer, spec)
    together = [len(active) for active in steps]
    histogram = [together.count(p) for p in range(spec.threads + 1)]
    assert found.steps_by_active == tuple(histogram)
    assert found.steps == len(steps)
    assert found.active_operands == sum(map(len, steps))
    lost = [losses(active, spec) for active in steps]
    assert (found.reduced_activations, found.reduced_weights) == (sum(a for a, _ in lost), sum(b for _, b in lost))


@settings(max_examples=30)
@given(layers(), specs())
def test_errors_and_shares(layer: Layer, spec: SmtSpec) -> None:
    x, w, _, _ = layer
    found = collision_statistics(prepare(layer, spec), x)
    threaded = expected(layer, spec).double()
    exact = expected(layer, SmtSpec()).double()
    assert found.outputs == exact.numel()
    assert torch.equal(found.squared_error, (threaded - exact).square().sum((0, 2, 3)))
    assert torch.equal(found.squared_output, exact.square().sum((0, 2, 3)))
    assert found.mse == pytest.approx(float((threaded - exact).square().mean()))
    assert found.zero_activation_share == pytest.approx(float((x == 0).double().mean()))
    assert found.zero_weight_share == pytest.approx(float((w == 0).double().mean()))


def test_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (4, 8, 6, 6), generator=generator).to(torch.uint8)
    w = torch.randint(-128, 128, (4, 8, 3, 3), generator=generator).to(torch.int8)
    prepared = PreparedConv2d(w, SmtSpec(4), padding=1)
    whole = collision_statistics(prepared, x)
    halves = [collision_statistics(prepared, half) for half in (x[:1], x[1:])]
    total = halves[0] + halves[1]
    assert total.steps_by_active == whole.steps_by_active
    assert total.mse == whole.mse
    assert total.zero_weight_share == whole.zero_weight_share
    with pytest.raises(ValueError, match="4 and of 1"):
        whole + collision_statistics(prepared.one_thread, x)


def test_empty_batch_counts_nothing() -> None:
    prepared = PreparedConv2d(torch.ones(2, 4, 1, 1, dtype=torch.int8), SmtSpec(2))
    found: CollisionStatistics = collision_statistics(prepared, torch.empty(0, 4, 3, 3, dtype=torch.uint8))
    assert found.steps_by_active == (0, 0, 0)
    assert (found.mse, found.zero_activation_share) == (0.0, 0.0)


def test_more_images_than_a_byte_counts() -> None:
    image = torch.randint(0, 256, (1, 4, 3, 3), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    prepared = PreparedConv2d(torch.full((2, 4, 2, 2), 100, dtype=torch.int8), SmtSpec(2), padding=1)
    one = collision_statistics(prepared, image)
    many = collision_statistics(prepared, image.expand(511, -1, -1, -1))
    assert many.steps_by_active == tuple(511 * steps for steps in one.steps_by_active)
    assert one.reduced_activations
    assert many.reduced_activations == 511 * one.reduced_activations
    assert torch.equal(many.squared_error, 511 * one.squared_error)


@pytest.mark.parametrize("elements", [1, 700, 1500])
def test_pieces_count_what_the_whole_counts(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(9)
    x = torch.randint(0, 256, (7, 8, 6, 6), generator=generator).to(torch.uint8)
    w = torch.randint(-128, 128, (5, 8, 3, 3), generator=generator).to(torch.int8)
    prepared = PreparedConv2d(w, SmtSpec(4, "Aw"), padding=1)
    whole = collision_statistics(prepared, x)
    monkeypatch.setattr("bnrecal.nbsmt.analysis.collisions.PIECE_ELEMENTS", elements)
    pieces = collision_statistics(prepared, x)
    for name, value in vars(whole).items():
        same = (
            torch.equal(value, vars(pieces)[name]) if isinstance(value, torch.Tensor) else value == vars(pieces)[name]
        )
        assert same, name
