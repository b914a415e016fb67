"""A policy from outside is what its rule says now, under whatever name, and stays that in a network made with it."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from helpers import policies
from helpers.nets import images, tiny
from torch import Tensor

import bnrecal
from bnrecal.errors import BnrecalError
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.policies.custom import CustomPolicy, PinnedPolicy, pinned
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.convert import threaded_layers

NAME = "helpers.policies:DROP"
SHIFT = 1  # what `by_global` loses


def operands() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, 8, 5, 5), generator=generator, dtype=torch.uint8)
    return x, torch.randint(-128, 128, (4, 8, 3, 3), generator=generator).to(torch.int8)


def by_global(a: int, b: int, active: int) -> int:
    return a * b if active == 1 else a * (b >> SHIFT << SHIFT)


def sums(policy: str | CustomPolicy) -> Tensor:
    """Of the engine, compared with the golden model."""
    x, w = operands()
    found = bnrecal.nbsmt_conv2d(x, w, threads=4, policy=policy)
    assert torch.equal(found.long(), reference.conv2d(x, w, threads=4, policy=policy))  # type: ignore[arg-type]
    return found


def test_a_rule_that_is_defined_anew_under_its_name_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sums(NAME)
    monkeypatch.setattr(policies, "DROP", CustomPolicy("drop", lambda a, b, active: a * b if active == 1 else 0))
    assert not torch.equal(sums(NAME), before)
    monkeypatch.undo()
    assert torch.equal(sums(NAME), before)


def test_the_same_function_that_sees_another_global_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = CustomPolicy("by global", by_global)
    before = sums(policy)
    monkeypatch.setattr(f"{__name__}.SHIFT", 2)
    assert not torch.equal(sums(policy), before)


def test_other_terms_are_compared_with_the_rule_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sums("helpers.policies:BY_HAND")
    monkeypatch.setattr(policies.Plain, "terms", ((lambda a, _: a, lambda b: b),))
    with pytest.raises(BnrecalError, match=r"smt\.policy=helpers\.policies:BY_HAND: its terms give"):
        sums("helpers.policies:BY_HAND")


def test_two_objects_of_one_name_are_two_policies() -> None:
    one = CustomPolicy("same", policies.drop_bits)
    other = CustomPolicy("same", by_global)
    found = [sums(policy) for policy in (one, other, one)]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert SmtSpec(4, one) != SmtSpec(4, other)
    assert SmtSpec(4, one) == SmtSpec(4, CustomPolicy("same", policies.drop_bits))
    assert hash(SmtSpec(4, one)) == hash(SmtSpec(4, one))


def test_an_object_is_taken_where_its_name_is() -> None:
    assert torch.equal(sums(policies.DROP), sums(NAME))
    assert torch.equal(sums(policies.BY_HAND), sums("helpers.policies:BY_HAND"))  # type: ignore[arg-type]
    by_object = bnrecal.quantize(tiny(), [images(8)], SmtSpec(4, policies.DROP))
    by_name = bnrecal.quantize(tiny(), [images(8)], SmtSpec(4, NAME))
    with torch.no_grad():
        assert torch.equal(by_object(images(8)), by_name(images(8)))
    assert "8-bit, threads=4, policy=drop, scale=" in str(by_object)
    assert f"8-bit, threads=4, policy={NAME}, scale=" in str(by_name)
    table = bnrecal.layer_table(by_object, [images(8)])
    assert table["mse"].tolist() == bnrecal.layer_table(by_name, [images(8)])["mse"].tolist()
    assert str(SmtSpec(4, policies.DROP).policy) == "drop"


def test_a_quantized_network_keeps_the_rule_that_it_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = SmtSpec(4, NAME), SmtSpec(4, CustomPolicy("by global", by_global))
    made = [bnrecal.quantize(tiny(), [images(8)], spec) for spec in specs]
    with torch.no_grad():
        wanted = [bnrecal.quantize(tiny(), [images(8)], spec)(images(8)) for spec in specs]
    monkeypatch.setattr(policies, "DROP", replace(policies.DROP, product=by_global))
    monkeypatch.setattr(f"{__name__}.SHIFT", 3)
    with torch.no_grad():
        for q, logits in zip(made, wanted, strict=True):  # first called now
            assert torch.equal(q(images(8)), logits)
            assert torch.equal(copy.deepcopy(q)(images(8)), logits)
            assert torch.equal(pickle.loads(pickle.dumps(q))(images(8)), logits)


def test_what_is_pinned_is_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = pinned(CustomPolicy("by global", by_global))
    assert [policy.product(a, b, p) for a, b, p in ((3, -7, 1), (255, 127, 2), (9, -128, 4))] == [-21, 255 * 126, -1152]
    monkeypatch.setattr(f"{__name__}.SHIFT", 4)
    assert policy.product(255, 127, 2) == 255 * 126
    assert pinned(policy) is policy
    assert pinned(CustomPolicy("by global", by_global)).product(255, 127, 2) == 255 * 112


def test_a_rule_is_worked_out_once() -> None:
    calls = 0

    def counted(a: int, b: int, active: int) -> int:
        nonlocal calls
        calls += 1
        return policies.drop_bits(a, b, active)

    policy = CustomPolicy("counted", counted)
    assert pinned(policy) is pinned(policy)
    assert calls < 4 * 256 * 256 + 1000
    spec = SmtSpec(4, policy)
    before = calls
    assert replace(spec, threads=2).policy is spec.policy
    assert calls == before


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            policies.INEXACT,
            r"the policy inexact: product\(a=1, b=-127, active=1\) is -128: one active thread multiplies",
        ),
        (policies.RAISES, "the policy raises: its product fails: ZeroDivisionError"),
    ],
)
def test_a_wrong_object_is_refused_with_its_name(policy: CustomPolicy, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        SmtSpec(4, policy)


def test_terms_that_are_no_rule_are_refused_before_anything_is_quantized() -> None:
    for spec in (SmtSpec(4, policies.SLIPPED), SmtSpec(4, "helpers.policies:SLIPPED")):
        with pytest.raises(BnrecalError, match="its terms give -127 for a=1, b=-127 with 2 active threads"):
            bnrecal.quantize(tiny(), [images(8)], spec)


@pytest.mark.parametrize("policy", [3, None, policies.drop_bits, "B"])
def test_what_is_no_policy_is_named(policy: object) -> None:
    with pytest.raises(ValueError, match=r"policy must be one of .*, or module:ATTRIBUTE, or a CustomPolicy, not"):
        SmtSpec(4, policy)  # type: ignore[arg-type]


def test_the_packages_own_policies_stay_names() -> None:
    assert SmtSpec(4, "aW").pinned() == SmtSpec(4, "aW")
    assert isinstance(SmtSpec(4, NAME).pinned().policy, PinnedPolicy)
    layers = threaded_layers(bnrecal.quantize(tiny(), [images(8)], SmtSpec(4, "W")))
    assert {layer.spec.policy for layer in layers.values()} == {"W"}
