import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.nets import images, tiny

from bnrecal.errors import BnrecalError
from bnrecal.quantization.calibrate import ConvInfo, calibrate
from bnrecal.quantization.layer_plan import FLOAT, check_names, load_plan, plan_speedup, plan_threads
from bnrecal.quantization.systolic import gemm_cycles, layer_cycles, network_cycles


@pytest.fixture(scope="module")
def convs() -> list[ConvInfo]:
    return calibrate(tiny(), [images(4)])


def test_first_float_depthwise_one_thread_the_rest_as_asked(convs: list[ConvInfo]) -> None:
    plans = {p.name: p for p in plan_threads(convs, 4, {})}
    assert {name: p.threads for name, p in plans.items()} == {"stem": FLOAT, "conv2": 4, "depthwise": 1, "dilated": 4}
    assert plans["stem"].signed is False
    assert plans["stem"].reason == "first convolution: float32"
    assert plans["depthwise"].reason == "depthwise: 1 thread"
    assert plans["conv2"].reason == ""


def test_a_negative_input_runs_signed_with_one_thread() -> None:
    network = tiny()
    network.bn1.bias.data -= 1
    relu_free = calibrate(network, [images(4)])
    relu_free[1].minimum = -1.0
    plan = plan_threads(relu_free, 2, {})[1]
    assert (plan.threads, plan.signed, plan.reason) == (1, True, "negative inputs: signed, 1 thread")


def test_exact_names_win_over_globs_and_later_globs_over_earlier(convs: list[ConvInfo]) -> None:
    wanted = {"conv2": 1, "*": 4, "dil*": 2}
    assert [p.threads for p in plan_threads(convs, 4, wanted)] == [FLOAT, 1, 1, 2]


def test_skipped_convolutions_stay_float(convs: list[ConvInfo]) -> None:
    plans = plan_threads(convs, 2, {}, ["di*"])
    assert [p.threads for p in plans] == [FLOAT, 2, 1, FLOAT]
    assert not any(p.signed for p in plans)
    assert plans[3].reason == "quant.skip: float32"


def test_a_skipped_convolution_still_counts_and_the_first_stays_the_first() -> None:
    everything = calibrate(tiny(), [images(4)])
    skipping = calibrate(tiny(), [images(4)], keep_float=lambda name: name in ("stem", "dilated"))
    assert [(o.name, o.order, o.macs) for o in skipping] == [(o.name, o.order, o.macs) for o in everything]
    plans = plan_threads(skipping, 4, {}, ["stem", "dilated"])
    assert [p.threads for p in plans] == [FLOAT, 4, 1, FLOAT]
    macs = {o.name: o.macs for o in skipping}
    slow = macs["depthwise"] + macs["dilated"]
    assert plan_speedup(plans) == pytest.approx((macs["conv2"] + slow) / (macs["conv2"] / 4 + slow))


def test_unknown_names_and_impossible_threads_are_errors(convs: list[ConvInfo]) -> None:
    with pytest.raises(BnrecalError, match=r"smt.layers names layer9\.\*.*conv2, depthwise, dilated"):
        plan_threads(convs, 4, {"layer9.*": 2})
    with pytest.raises(
        BnrecalError,
        match=r"^smt\.layers asks 2 threads of depthwise, which cannot \(depthwise: 1 thread\): give it 1$",
    ):
        plan_threads(convs, 4, {"depthwise": 2})


def test_speedup_by_hand(convs: list[ConvInfo]) -> None:
    macs = {o.name: o.macs for o in convs}
    plans = plan_threads(convs, 4, {"dilated": 2})
    total = macs["conv2"] + macs["depthwise"] + macs["dilated"]
    by_hand = total / (macs["conv2"] / 4 + macs["depthwise"] + macs["dilated"] / 2)
    assert plan_speedup(plans) == pytest.approx(by_hand)
    assert plan_speedup(plan_threads(convs, 1, {})) == 1.0


def test_cycles_by_hand(convs: list[ConvInfo]) -> None:
    # 36 x 72 by 72 x 16 on 16 x 16: 3 x 1 tiles of 2*16 + 16 + 72/T - 2 cycles
    assert gemm_cycles(36, 72, 16, 1, 16, 16) == 3 * (46 + 72)
    assert gemm_cycles(36, 72, 16, 4, 16, 16) == 3 * (46 + 18)
    assert gemm_cycles(36, 73, 17, 4, 16, 16) == 6 * (46 + 19)
    depthwise = convs[2]
    assert layer_cycles(depthwise, 1, 16, 16) == 16 * 3 * (46 + 9)
    plans = plan_threads(convs, 4, {})
    parts = [layer_cycles(o, max(p.threads, 1), 16, 16) for o, p in zip(convs, plans, strict=True)]
    assert network_cycles(plans, 16, 16) == sum(parts[1:])


def test_plan_files(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"layers": {"conv2": 2}}))
    assert load_plan(path) == {"conv2": 2}
    no_plan = re.escape(f'{path} is not a plan: it must hold {{"layers": {{name: threads}}}}')
    for text, message in (
        ("[]", no_plan),
        ("{", no_plan),
        ('{"layers": {"a": 3}}', f"the plan {path} gives a 3 threads: choose 1, 2 or 4"),
        ('{"layers": {"a": 1, "b": true}}', f"the plan {path} gives b True threads: choose 1, 2 or 4"),
    ):
        path.write_text(text)
        with pytest.raises(BnrecalError, match=f"^{message}$"):
            load_plan(path)
    missing = tmp_path / "none.json"
    with pytest.raises(BnrecalError, match=rf"^cannot read the plan {missing} \(No such file or directory\)$"):
        load_plan(missing)


def test_names_that_are_there_are_listed_six_at_most(convs: list[ConvInfo]) -> None:
    for count, listed in ((6, "c0, c1, c2, c3, c4, c5"), (8, "c0, c1, c2, c3, c4, c5 and 2 more")):
        named = [replace(convs[1], name=f"c{place}") for place in range(count)]
        with pytest.raises(
            BnrecalError, match=f"^some.key names none, which matches no quantized convolution: choose among {listed}$"
        ):
            check_names("some.key", ["none"], named, lambda _: True)
    with pytest.raises(
        BnrecalError, match=r"^smt.layers names stem, which matches only convolutions that stay float32"
    ):
        plan_threads(convs, 4, {"stem": 2})
