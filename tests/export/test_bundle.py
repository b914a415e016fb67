import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small import TINY
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import bnrecal.experiment.setup
from bnrecal.batchnorm.recalibrate import batchnorms
from bnrecal.commands.cli.compose import compose_config, read_config
from bnrecal.commands.cli.schemas import ExportConfig
from bnrecal.commands.export import describe_export, make_export
from bnrecal.config import parse
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.errors import BnrecalError
from bnrecal.experiment.networks import prepare_variants
from bnrecal.experiment.provenance import recalibration_settings
from bnrecal.experiment.setup import load, prepare
from bnrecal.experiment.variant import Variant
from bnrecal.export import bundle
from bnrecal.export.agreement import Agreement, check_agreement, compare
from bnrecal.export.bundle import Export
from bnrecal.export.fold import Folding, affine
from bnrecal.export.handover import policy_products
from bnrecal.export.last_bits import check_layers, last_bit_noise
from bnrecal.export.network import folded_network
from bnrecal.export.plan_file import plan_content, read_plan
from bnrecal.export.tensors import exported_tensors
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.policies.custom import CustomPolicy
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import POLICIES

SMALL = [
    *TINY,
    "smt.threads=4",
    "recal=true",
]
VECTORS = ["vectors.outputs=3"]


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))


def exported(out: Path, *overrides: str) -> Export:
    return make_export(read_config(ExportConfig, [*SMALL, *VECTORS, f"out={out}", *overrides]), [])


def test_a_network_at_chance_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 100))
    with pytest.raises(BnrecalError, match="hardly better than chance"):
        exported(tmp_path / "out", "data.allow_chance=false")
    assert not (tmp_path / "out").exists()


def test_an_export_holds_the_layers_of_the_experiment_folded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = exported(tmp_path / "out")
    experiment = prepare(load(parse(compose_config("config", SMALL))))
    prepared = prepare_variants(experiment, [Variant(4, True)])[Variant(4, True)]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    for name, norm in (("conv2", "bn2"), ("depthwise", "bn3"), ("dilated", "bn4")):
        layer = prepared.layers[name]
        (gain, shift) = affine(batchnorms(prepared.network)[norm])
        assert torch.equal(tensors[f"{name}.weight"], layer.weight)
        assert tensors[f"{name}.input_scale"].item() == layer.input_scale
        scale = layer.input_scale * layer.weight_scale.double() * gain
        assert torch.allclose(tensors[f"{name}.scale"].double(), scale, rtol=1e-6)
        own = experiment.model.network.state_dict().get(f"{name}.bias")
        bias = shift if own is None else own.double() * gain + shift
        assert torch.allclose(tensors[f"{name}.bias"].double(), bias, rtol=1e-6)
    assert tensors["stem.weight"].dtype == torch.float32
    assert not any(key.startswith("bn") for key in tensors)
    assert tensors.keys() >= {"fc.weight", "fc.bias", "stem.bias"}
    printed = capsys.readouterr().out
    assert "folded      4 of 4 BatchNorm layers" in printed
    assert "quantized   100.00 % equal predictions on 20 images" in printed
    assert "9 outputs of 3 layers, equal to the golden model" in printed
    assert made.agreements["float32"].equal == 20


def test_the_plan_gives_tiles_steps_and_cycles(tmp_path: Path) -> None:
    exported(tmp_path / "out", "smt.array.rows=8", "smt.array.columns=4", "vectors.layers=[d*]")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    layers = {layer["name"]: layer for layer in plan["layers"]}
    assert [layer["arithmetic"] for layer in plan["layers"]] == ["float32", "uint8", "uint8", "uint8"]
    conv2 = layers["conv2"]  # 32x32 images, stride 2: 16x16 outputs of 16 filters, 8 channels of 3x3
    assert conv2["gemm"] == {"m": 256, "k": 72, "n": 16}
    assert (conv2["threads"], conv2["steps"], conv2["tiles"]) == (4, 18, {"rows": 32, "columns": 4})
    assert conv2["cycles"] == 32 * 4 * (2 * 8 + 4 + 18 - 2)
    assert conv2["vectors"] is None
    depthwise = layers["depthwise"]
    assert (depthwise["threads"], depthwise["reason"]) == (1, "depthwise: 1 thread")
    assert depthwise["cycles"] == 16 * 32 * 1 * (2 * 8 + 4 + 9 - 2)
    assert depthwise["batchnorm"] == "bn3"
    assert plan["cycles"] == sum(layer["cycles"] for layer in plan["layers"][1:])
    assert [(layer["threads"], layer["calls"]) for layer in plan["layers"]] == [(0, 1), (4, 1), (1, 1), (4, 1)]
    assert plan["speedup"] == pytest.approx((72 + 9 + 144) / (72 / 4 + 9 + 144 / 4))  # the same outputs everywhere
    assert plan["machine"]["array"] == {"rows": 8, "columns": 4}
    one_thread = 32 * 4 * (18 + 72) + 16 * 32 * (18 + 9) + 32 * 4 * (18 + 144)
    assert plan["cycle_speedup"] == pytest.approx(one_thread / plan["cycles"])
    folders = sorted(path.name for path in (tmp_path / "out" / "vectors").iterdir())
    assert folders == ["corners-1T", "corners-4T", "depthwise", "dilated"]
    assert layers["dilated"]["vectors"] == "vectors/dilated"
    with np.load(tmp_path / "out" / "vectors" / "dilated" / "vectors.npz") as arrays:
        assert arrays["activations"].shape == arrays["weights"].shape == (3, 36, 4)
        assert arrays["input"].shape == tuple(layers["dilated"]["input"])
        assert arrays["sums"].shape == tuple(layers["dilated"]["output"])


def test_a_batchnorm_that_stays_is_named_and_written_as_scale_and_bias(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = exported(tmp_path / "out", "model.factory=helpers.nets:kept_norm_net", "quant.skip=['3']")
    assert made.folding.kept == {"2": "follows 1, not a convolution"}
    assert "not folded  2: follows 1, not a convolution" in capsys.readouterr().out
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["2.scale"].shape == tensors["2.bias"].shape == (8,)
    assert made.plan["batchnorm_kept"] == made.folding.kept
    assert made.agreements["quantized"].equal == 20


def test_negative_inputs_are_exported_signed(tmp_path: Path) -> None:
    made = exported(tmp_path / "out", "model.factory=helpers.nets:negative_net")
    assert [layer["arithmetic"] for layer in made.plan["layers"]] == ["float32", "int8"]
    assert "SIGNED = 1" in (tmp_path / "out" / "vectors" / "2" / "parameters.vh").read_text()
    assert made.agreements["quantized"].equal == 20


@pytest.mark.parametrize("how", ["activity", "bits"])
def test_reordered_channels_are_written_and_used(tmp_path: Path, how: str) -> None:
    made = exported(tmp_path / "out", f"smt.reorder={how}")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    orders = {key: tensors[key].tolist() for key in tensors if key.endswith("channel_order")}
    assert orders.keys() == {"conv2.channel_order", "dilated.channel_order"}  # the depthwise one has one thread
    assert sorted(orders["conv2.channel_order"]) == list(range(8)) != orders["conv2.channel_order"]
    assert made.agreements["quantized"].equal == 20
    with np.load(tmp_path / "out" / "vectors" / "conv2" / "vectors.npz") as arrays:
        assert np.array_equal(arrays["weight"], tensors["conv2.weight"].numpy()[:, orders["conv2.channel_order"]])


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(out)
    (out / "vectors" / "stale").mkdir()
    exported(out)
    assert not (out / "vectors" / "stale").exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(BnrecalError, match=r"out=.*mine exists and holds no export: choose another folder"):
        exported(other)
    assert (other / "thesis.tex").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_nothing_appears_when_the_folded_network_answers_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any) -> Any:
        return {key: -value if key == "conv2.scale" else value for key, value in real(*args).items()}

    real = exported_tensors
    monkeypatch.setattr(bundle, "exported_tensors", wrong)
    with pytest.raises(
        BnrecalError, match=r"the folded convolution conv2 differs from the unfolded one by \d.* last bits"
    ):
        exported(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_appears_where_a_single_filter_is_off_by_less_than_any_prediction_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any) -> Any:
        tensors = real(*args)
        tensors["conv2.bias"][3] *= 1 + 1e-4
        return tensors

    real = exported_tensors
    monkeypatch.setattr(bundle, "exported_tensors", wrong)
    with pytest.raises(BnrecalError, match="the folded convolution conv2 differs"):
        exported(tmp_path / "out")


def test_an_image_with_its_logits_the_rule_and_the_origin_go_with_the_numbers(tmp_path: Path) -> None:
    made = exported(tmp_path / "out", "smt.policy=W")
    setup = load(parse(compose_config("config", SMALL)))
    example = load_file(tmp_path / "out" / "example.safetensors")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    plan_path = tmp_path / "out" / "plan.json"
    folded, _ = folded_network(setup.model.network, tensors, read_plan(plan_path))
    with torch.no_grad():
        assert torch.equal(folded(example["input"]), example["logits"])
    assert (example["logits"] - example["float32_logits"]).norm() < 0.5 * example["logits"].norm()
    with np.load(tmp_path / "out" / "policy.npz") as arrays:
        products = arrays["products"]
    assert (products.dtype, products.shape) == (np.int32, (4, 256, 256))
    for active, a, b in itertools.product((1, 2, 3, 4), (0, 7, 15, 16, 200, 255), (-128, -9, -8, 0, 7, 100)):
        pairs = [(a, b)] * active if a and b else [(a, b)]
        expected = reference.processing_element(pairs, "W") // len(pairs)
        assert products[active - 1, a, b + 128] == expected
    plan = json.loads(plan_path.read_text())
    source = setup.source
    told = {
        "made_by": "bnrecal export",
        "model": "custom",
        "data": "glyphs",
        "weights": {"source": "helpers.nets:glyph_net", "sha256": setup.model.weights_hash},
        "preprocessing": json.loads(json.dumps(asdict(setup.model.preprocessing))),
        "label_offset": setup.model.label_offset,
        "calibration": {"act_range": "mean_max", **setup.calibration.provenance(source)},
        "recalibration": {**recalibration_settings(setup.config), **setup.recalibration.provenance(source)},
    }
    assert {key: plan[key] for key in told} == told
    assert plan_path.read_text() == json.dumps(plan, indent=1) + "\n"
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"made_by": "bnrecal export"}
    assert exported(tmp_path / "other", "recal=false").plan["recalibration"] is None
    assert made.last_bits.keys() == {"conv2", "depthwise", "dilated"}


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("rounding", ["half_even", "floor"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_products_of_a_policy_are_those_of_the_golden_model(policy: str, rounding: str, saturate: bool) -> None:
    products = policy_products(SmtSpec(4, policy, rounding=rounding, saturate=saturate))
    assert (str(products.dtype), products.shape) == ("int64", (4, 256, 256))
    ends = (0, 1, 7, 8, 9, 15, 16, 17, 24, 119, 120, 127, 200, 247, 248, 255)
    for active, a, value in itertools.product((1, 2, 3, 4), ends, ends):
        b = value - 128
        pairs = [(a, b)] * active if a and b else [(a, b)]
        expected = reference.processing_element(pairs, policy, True, rounding, saturate) // len(pairs)
        assert products[active - 1, a, value] == expected, (active, a, b)


def test_the_products_of_a_custom_policy_are_its_rule() -> None:
    rule = CustomPolicy("twos", lambda a, b, active: a * (b // 2 * 2) if active > 1 else a * b)
    products = policy_products(SmtSpec(4, rule))
    assert products[1, 3, 128 + 5] == 12
    assert products[0, 3, 128 + 5] == 15


def test_one_last_bit_of_noise_moves_every_batchnorm_by_just_that() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4)).eval()
    x = torch.rand(2, 4, 3, 3) + 1
    with torch.no_grad():
        plain = network(x)
        with last_bit_noise(network, 0):
            moved = network(x)
        assert torch.equal(network(x), plain)
    steps = moved.view(torch.int32) - plain.view(torch.int32)
    assert set(steps.unique().tolist()) == {-1, 1}


def test_layers_that_are_not_folded_for_one_reason_are_reported_in_one_line(tmp_path: Path) -> None:
    reason = "torch.fx cannot trace the network (why)"
    folding = Folding({}, {f"bn{i}": reason for i in range(27)})
    plan = {"speedup": 1.0, "cycle_speedup": 1.0, "cycles": 1}
    reported = describe_export(Export(tmp_path, folding, {}, {}, {}, plan)).splitlines()
    assert reported[:2] == [
        "  folded      0 of 27 BatchNorm layers",
        f"  not folded  bn0, bn1, bn2 and 24 more: {reason}",
    ]


@pytest.mark.parametrize(
    ("layer", "field", "value"),
    [
        ("dilated", "dilation", [1, 1]),
        ("conv2", "stride", [1, 1]),
        ("depthwise", "batchnorm", None),
        ("conv2", "arithmetic", "float32"),
    ],
)
def test_nothing_appears_when_the_plan_that_was_written_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str, field: str, value: object
) -> None:
    def wrong(*args: Any) -> Any:
        content = real(*args)
        next(one for one in content["layers"] if one["name"] == layer)[field] = value
        return content

    real = plan_content
    monkeypatch.setattr(bundle, "plan_content", wrong)
    # a network of other answers, a layer whose output does not fit the next, or one without its numbers
    with pytest.raises((BnrecalError, RuntimeError)):
        exported(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_network_that_is_checked_runs_the_threads_of_the_file(tmp_path: Path) -> None:
    made = exported(tmp_path / "out", "smt.policy=W", "smt.rounding=floor")
    path = tmp_path / "out" / "plan.json"
    content = json.loads(path.read_text())
    assert content == json.loads(json.dumps(made.plan))
    content["layers"][1]["threads"] = 2
    path.write_text(json.dumps(content))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    _, quantized = folded_network(load(parse(compose_config("config", SMALL))).model.network, tensors, read_plan(path))
    assert {name: layer.spec for name, layer in quantized.items()} == {
        "conv2": SmtSpec(2, "W", rounding="floor"),
        "depthwise": SmtSpec(1, "W", rounding="floor"),
        "dilated": SmtSpec(4, "W", rounding="floor"),
    }


def test_the_machine_in_the_plan_is_the_one_that_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any) -> Any:
        content = real(*args)
        return {**content, "machine": {**content["machine"], "sparsity": False}}

    real = plan_content
    monkeypatch.setattr(bundle, "plan_content", wrong)
    with pytest.raises(BnrecalError, match="the folded convolution conv2 differs from the unfolded one"):
        exported(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_agreement_counts_equal_and_right_answers() -> None:
    class Says(nn.Module):
        def __init__(self, classes: list[int]) -> None:
            super().__init__()
            self.classes = torch.tensor(classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(self.classes[x[:, 0, 0, 0].long()], 5).float()

    x = torch.arange(4.0).view(4, 1, 1, 1)
    labels = torch.tensor([0, 1, -1, 2])
    pair = (Says([1, 2, 0, 0]), Says([1, 4, 1, 4]))  # the third image cannot be read
    agreement = compare({"some": pair}, [(x, labels)] * 2, label_offset=1)["some"]
    assert agreement == Agreement(images=6, equal=2, top1=4, folded_top1=2, noisy=0)
    with pytest.raises(BnrecalError, match="no readable validation image"):
        compare({"some": pair}, [(x, torch.full((4,), -1))], label_offset=1)


@pytest.mark.parametrize(
    ("images", "equal", "noisy", "good"),
    [
        (5000, 4995, 0, True),
        (5000, 4994, 0, False),
        (20, 19, 0, True),
        (20, 18, 0, False),
        (300, 295, 1, True),
        (300, 294, 1, False),
    ],
)
def test_how_many_answers_may_differ(images: int, equal: int, noisy: int, good: bool) -> None:
    agreement = Agreement(images, equal, equal, equal, noisy)
    if good:
        check_agreement("some", agreement)
        return
    with pytest.raises(BnrecalError, match=f"puts {images - equal} of {images} images into another class"):
        check_agreement("some", agreement)


@pytest.mark.parametrize(("bits", "good"), [(16.0, True), (16.001, False), (float("nan"), False)])
def test_how_far_a_folded_layer_may_be_off(bits: float, good: bool) -> None:
    if good:
        check_layers({"conv1": 0.0, "conv2": bits})
        return
    message = rf"conv2 differs from the unfolded one by {bits:.3g} last bits of float32, where rounding explains 16: "
    with pytest.raises(BnrecalError, match=f"^the folded convolution {message}nothing is exported$"):
        check_layers({"conv1": 0.0, "conv2": bits})


def test_both_networks_top1_are_reported(tmp_path: Path) -> None:
    plan = {"speedup": 3.5, "cycle_speedup": 2.25, "cycles": 12345}
    agreements = {"quantized": Agreement(images=200, equal=199, top1=150, folded_top1=149, noisy=2)}
    reported = describe_export(
        Export(tmp_path, Folding({"conv": "bn"}, {}), agreements, {"conv": 2.5}, {"conv": 3}, plan)
    ).splitlines()
    assert reported == [
        "  folded      1 of 1 BatchNorm layers",
        "  quantized   99.50 % equal predictions on 200 images, top-1 75.00 % unfolded, 74.50 % folded; "
        "one last bit of noise changes 2 predictions, folding 1",
        "  rounding    folded layers differ by 2.5 last bits of float32 or less (conv)",
        "  vectors     3 outputs of 1 layers, equal to the golden model",
        "  speedup     3.50 x by products, 2.25 x by array cycles (12,345 per image)",
        f"  written to  {tmp_path}",
    ]


def test_values_out_of_range_are_reported() -> None:
    with pytest.raises(BnrecalError, match=r"vectors\.outputs=0: must be at least 1"):
        read_config(ExportConfig, [*SMALL, "vectors.outputs=0"])
