from itertools import product

import pytest
import torch
from helpers.smt_cases import Layer, expected, layers
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.policies.bit_widths import named, policy_of_width, reduced_activation, reduced_weight
from bnrecal.nbsmt.policies.custom import check_policy, load_policy
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES


@pytest.mark.parametrize("policy", POLICIES)
def test_at_four_bits_the_rule_is_the_golden_models(policy: str) -> None:
    rule = policy_of_width(policy, 4).product
    for a, b, active in product(range(0, 256, 3), range(-128, 128), (1, 2, 3, 4)):
        others = [(1, 1)] * (active - 1)
        pairs = [(a, b), *others]
        found = rule(a, b, active) + sum(rule(*pair, active) for pair in others)
        assert (found if a and b else 0) == (reference.processing_element(pairs, policy) if a and b else 0)


def test_reduced_operands_by_hand() -> None:
    # 3 bits: 0..7 and -4..3 as they are, else multiples of 32 up to 224 and from -128 to 96
    assert [reduced_activation(a, 3) for a in (7, 8, 16, 17, 48, 240, 255)] == [7, 0, 0, 32, 64, 224, 224]
    assert [reduced_weight(b, 3) for b in (-128, -113, -4, 3, 4, 48, 127)] == [-128, -128, -4, 3, 0, 64, 96]
    # 5 bits: 0..31 and -16..15 as they are, else multiples of 8 up to 248 and from -128 to 120
    assert [reduced_activation(a, 5) for a in (31, 36, 44, 255)] == [31, 32, 48, 248]
    assert [reduced_weight(b, 5) for b in (-17, -16, 15, 20, 127)] == [-16, -16, 15, 16, 120]


@settings(max_examples=20)
@given(
    layer=layers(),
    threads=st.sampled_from([1, 2, 4]),
    policy=st.sampled_from(POLICIES),
    bits=st.sampled_from([3, 5]),
)
def test_any_layer_equals_the_golden_model(layer: Layer, threads: int, policy: str, bits: int) -> None:
    x, w, geometry, groups = layer
    spec = SmtSpec(threads, named(policy, bits))
    found = PreparedConv2d(w, spec, **geometry, groups=groups).accumulate(x)  # type: ignore[arg-type]
    assert torch.equal(found, expected(layer, spec))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("bits", [3, 5])
def test_every_policy_of_every_width_is_good(policy: str, bits: int) -> None:
    check_policy(named(policy, bits))
    assert load_policy(named(policy, bits)).name == f"{policy} with {bits} bits"
    with pytest.raises(BnrecalError, match="has no policy"):
        check_policy(named("B", bits))
