from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from helpers import policies
from helpers.smt_cases import Layer, expected, layers
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrecal.config import Config, DataConfig, ModelConfig, SmtConfig
from bnrecal.errors import BnrecalError
from bnrecal.experiment.identity import differences, settings_identity
from bnrecal.nbsmt.analysis.collisions import collision_statistics
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.policies.builtin import POLICIES
from bnrecal.nbsmt.policies.custom import check_policy, load_policy, policy_factors
from bnrecal.nbsmt.policies.factorize import factor
from bnrecal.nbsmt.prepared_conv import PreparedConv2d, nbsmt_conv2d
from bnrecal.nbsmt.spec import SmtSpec

# as many terms as each may need
FACTORED = {"DROP": 4, "BY_HAND": 2, **{f"BUILT_IN.{name}": len(POLICIES[name].terms) for name in POLICIES}}


def named(attribute: str) -> str:
    return f"helpers.policies:{attribute}"


@settings(max_examples=60)
@given(
    layer=layers(),
    threads=st.sampled_from([1, 2, 4]),
    policy=st.sampled_from(["DROP", "BY_HAND"]),
    sparsity=st.booleans(),
)
def test_any_layer_equals_the_golden_model_under_a_rule_from_outside(
    layer: Layer, threads: int, policy: str, sparsity: bool
) -> None:
    x, w, geometry, groups = layer
    spec = SmtSpec(threads, named(policy), sparsity)
    for engine in (None, "float64"):
        conv = PreparedConv2d(w, spec, **geometry, groups=groups, engine=engine)  # type: ignore[arg-type]
        assert torch.equal(conv.accumulate(x), expected(layer, spec))


@pytest.mark.parametrize("channels", [24, 400])  # the sums of many channels leave float32's exact range, and are cut
@pytest.mark.parametrize("threads", [2, 4])
def test_a_layer_of_float_activations_gives_the_scaled_sums_of_their_levels(channels: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.relu(torch.randn(3, channels, 5, 4, generator=generator))
    w = torch.randint(-128, 128, (6, channels, 3, 3), generator=generator)
    w = (w * (torch.rand(w.shape, generator=generator) < 0.9)).to(torch.int8)
    conv = PreparedConv2d(w, SmtSpec(threads, named("DROP")), padding=1)
    assert conv.engine_name == "float32"
    sums = conv.accumulate(quantize_activation(x, 0.01))
    plain = PreparedConv2d(w, SmtSpec(threads, named("DROP")), padding=1, engine="float64")  # without the kernel
    assert torch.equal(sums, plain.accumulate(quantize_activation(x, 0.01)))
    scale = torch.rand(6, generator=generator) + 0.5
    bias = torch.randn(6, generator=generator)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = conv(x.contiguous(memory_format=layout), 0.01, scale, bias)
        assert torch.equal(found, sums.float() * (scale * 0.01).view(1, -1, 1, 1) + bias.view(1, -1, 1, 1))


def test_a_pointwise_layer_equals_a_loop_over_the_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, 8, 1, 1), generator=generator, dtype=torch.uint8)
    w = torch.randint(-128, 128, (5, 8, 1, 1), generator=generator).to(torch.int8)
    x[0, 2], w[1, 5] = 0, 0
    for filter_, weights in enumerate(w.flatten(1).tolist()):
        a = x.flatten().tolist()
        total = 0
        for step in (0, 1):  # four threads: channels 0 and 1, 2 and 3, ...
            pairs = [(a[2 * t + step], weights[2 * t + step]) for t in range(4)]
            running = [(p, q) for p, q in pairs if p and q]
            total += sum(policies.drop_bits(p, q, len(running)) for p, q in running)
        found = nbsmt_conv2d(x, w, threads=4, policy=named("DROP"))
        assert int(found[0, filter_]) == total


@settings(max_examples=20)
@given(layer=layers(), threads=st.sampled_from([2, 4]), policy=st.sampled_from(list(POLICIES)))
def test_the_packages_own_policies_as_rules_give_the_same_sums(layer: Layer, threads: int, policy: str) -> None:
    x, w, geometry, groups = layer
    specs = (SmtSpec(threads, policy), SmtSpec(threads, named(f"BUILT_IN.{policy}")))
    fast, rule = (PreparedConv2d(w, spec, **geometry, groups=groups) for spec in specs)  # type: ignore[arg-type]
    assert torch.equal(fast.accumulate(x), rule.accumulate(x))


@pytest.mark.parametrize("attribute", FACTORED)
def test_terms_equal_the_rule_for_every_operand(attribute: str) -> None:
    rule = load_policy(named(attribute)).product
    factors = policy_factors(named(attribute), 4)
    sums = factors.of_activation @ factors.of_weight
    for p, a, b in product((1, 2, 3, 4), range(0, 256, 5), range(-128, 128)):
        assert sums[p - 1, a, b + 128] == rule(a, b, p)
    assert factors.terms <= FACTORED[attribute]


@given(seed=st.integers(0, 1000), terms=st.integers(0, 5))
def test_a_table_of_any_few_terms_is_factored_exactly(seed: int, terms: int) -> None:
    generator = np.random.default_rng(seed)
    f = generator.integers(-9, 10, (512, terms))
    g = generator.integers(-9, 10, (terms, 256))
    tables = (f @ g).reshape(2, 256, 256)
    factors = factor(tables, "random")
    assert np.array_equal(factors.of_activation @ factors.of_weight, tables)
    assert factors.terms == np.linalg.matrix_rank(f @ g)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("INEXACT", r"product\(a=1, b=-127, active=1\) is -128: one active thread multiplies exactly"),
        ("FROM_NOTHING", r"product\(a=0, b=-128, active=3\) is 1: a zero operand must give 0"),
        ("FRACTION", r"product\(a=0, b=-128, active=1\) is -?0\.0, not an integer"),
        ("MANY_TERMS", r"its products need 12 terms .*, at most 8 are possible"),
        ("LARGE", r"product\(a=171, b=-128, active=3\) is -65664: at most 65536 do"),
        ("RAISES", r"its product fails: ZeroDivisionError: .*policies\.py"),
        ("SLIPPED", "its terms give -127 for a=1, b=-127 with 2 active threads, its rule -128"),
        ("Plain.nothing", r"helpers\.policies has no policy Plain\.nothing"),
        ("drop_bits", r"is no policy: it needs a name and product\(a, b, active\)"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_first_operand_pair(attribute: str, message: str) -> None:
    with pytest.raises(BnrecalError, match=rf"smt\.policy=helpers\.policies:.*{message}"):
        check_policy(named(attribute))


def test_a_rule_that_changes_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_policy(named("DROP"))
    assert not caplog.messages
    check_policy(named("EXACT"))
    (reported,) = caplog.messages
    assert (
        reported
        == "smt.policy=helpers.policies:EXACT multiplies exactly however many threads are active: nothing is lost"
    )


def test_the_error_of_a_layer_is_measured_and_the_lost_bits_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 8, 4, 4), generator=generator, dtype=torch.uint8)
    w = torch.randint(-128, 128, (4, 8, 1, 1), generator=generator).to(torch.int8)
    conv = PreparedConv2d(w, SmtSpec(4, named("DROP")))
    seen = collision_statistics(conv, x)
    exact = nbsmt_conv2d(x, w, threads=1)
    assert seen.mse == pytest.approx(float((conv.accumulate(x) - exact).double().square().mean()))
    assert seen.steps_by_active == collision_statistics(PreparedConv2d(w, SmtSpec(4)), x).steps_by_active
    assert (seen.reduced_activations, seen.reduced_weights) == (None, None)
    assert ((seen + seen).reduced_activations, (seen + seen).reduced_weights) == (None, None)


def test_another_rule_under_the_same_name_is_another_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(
        ModelConfig(name="resnet18"), DataConfig(name="glyphs"), smt=SmtConfig(policy=named("DROP"), layers={})
    )
    before = settings_identity(config)
    assert not differences(before, settings_identity(config))
    monkeypatch.setattr(policies, "DROP", replace(policies.DROP, product=policies.Plain.product))
    assert differences({"settings": before}, {"settings": settings_identity(config)}) == ["the rule of smt.policy"]
