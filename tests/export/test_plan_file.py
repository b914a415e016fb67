"""Every field of `plan.json`, by hand, of a convolution that has no two sizes in common."""

import json
from pathlib import Path

import torch

from bnrecal.config import ArrayConfig
from bnrecal.export.fold import Folding
from bnrecal.export.plan_file import PlanFile, PlannedConv, plan_content, read_plan
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.layer_plan import FLOAT, ExceptionKind, LayerPlan

ARRAY = ArrayConfig(rows=5, columns=4)
SPEC = SmtSpec(4, "W", sparsity=False, rounding="floor", saturate=False)
FOLDING = Folding({"stem": "bn1", "wide": "bn2"}, {"bn3": "follows a, not a convolution"})


def info(name: str, order: int, groups: int, calls: int) -> ConvInfo:
    """12 filters of 3x5 taps, 6 channels: 7x9 outputs."""
    weight = torch.ones(12, 6 // groups, 3, 5)
    geometry = Geometry((1, 2), (0, 3), (2, 1), groups)
    macs = calls * 12 * 7 * 9 * weight[0].numel()
    return ConvInfo(name, order, weight, (6, 11, 13), (12, 7, 9), geometry, macs=macs, calls=calls, images=1)


PLANS = [
    LayerPlan(info("stem", 0, 1, 1), FLOAT, False, ExceptionKind.FIRST),
    LayerPlan(info("wide", 1, 2, 3), 4, False),
    LayerPlan(info("signed", 2, 1, 1), 1, True, ExceptionKind.NEGATIVE),
]
SIZES = {
    "input": [6, 11, 13],
    "output": [12, 7, 9],
    "kernel": [3, 5],
    "stride": [1, 2],
    "padding": [0, 3],
    "dilation": [2, 1],
}


def cycles(depth: int, filters: int) -> int:
    """63 pixels on 5 rows are 13 tiles; a tile takes 2 * 5 + 4 + depth - 2 cycles."""
    return 13 * (filters // 4 + (filters % 4 > 0)) * (2 * 5 + 4 + depth - 2)


def test_the_plan_of_three_layers_by_hand() -> None:
    content = plan_content(PLANS, FOLDING, SPEC, ARRAY, {"wide": "vectors/wide"})
    wide = 2 * 3 * cycles(12, 6)  # 45 products in 4 threads, two groups, three calls
    signed = cycles(90, 12)
    assert json.loads(json.dumps(content)) == {
        "machine": {
            "policy": "W",
            "sparsity": False,
            "rounding": "floor",
            "saturate": False,
            "array": {"rows": 5, "columns": 4},
        },
        "speedup": (3 * 45 + 90) / (3 * 45 / 4 + 90),
        "cycles": wide + signed,
        "cycle_speedup": (2 * 3 * cycles(45, 6) + signed) / (wide + signed),
        "layers": [
            {
                "name": "stem",
                "arithmetic": "float32",
                "threads": 0,
                "reason": "first convolution: float32",
                "batchnorm": "bn1",
                **SIZES,
                "groups": 1,
                "calls": 1,
                "gemm": {"m": 63, "k": 90, "n": 12},
                "steps": 90,
                "tiles": {"rows": 13, "columns": 3},
                "cycles": cycles(90, 12),
                "vectors": None,
            },
            {
                "name": "wide",
                "arithmetic": "uint8",
                "threads": 4,
                "reason": "",
                "batchnorm": "bn2",
                **SIZES,
                "groups": 2,
                "calls": 3,
                "gemm": {"m": 63, "k": 45, "n": 6},
                "steps": 12,
                "tiles": {"rows": 13, "columns": 2},
                "cycles": wide,
                "vectors": "vectors/wide",
            },
            {
                "name": "signed",
                "arithmetic": "int8",
                "threads": 1,
                "reason": "negative inputs: signed, 1 thread",
                "batchnorm": None,
                **SIZES,
                "groups": 1,
                "calls": 1,
                "gemm": {"m": 63, "k": 90, "n": 12},
                "steps": 90,
                "tiles": {"rows": 13, "columns": 3},
                "cycles": signed,
                "vectors": None,
            },
        ],
        "batchnorm_kept": {"bn3": "follows a, not a convolution"},
    }


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"model": "mine", **plan_content(PLANS, FOLDING, SPEC, ARRAY, {})}))
    one = SmtSpec(1, "W", sparsity=False, rounding="floor", saturate=False)
    assert read_plan(path) == PlanFile(
        [
            PlannedConv("stem", None, False, "bn1", Geometry((1, 2), (0, 3), (2, 1), 1)),
            PlannedConv("wide", SPEC, False, "bn2", Geometry((1, 2), (0, 3), (2, 1), 2)),
            PlannedConv("signed", one, True, None, Geometry((1, 2), (0, 3), (2, 1), 1)),
        ],
        ["bn3"],
    )


def test_a_convolution_called_twice_is_read_back_with_its_own_rows_and_columns(tmp_path: Path) -> None:
    geometry = Geometry(stride=(1, 2), padding=(3, 0), dilation=(2, 1), groups=2)
    conv_info = ConvInfo("c", 1, torch.zeros(6, 4, 3, 1), (8, 5, 4), (6, 7, 2), geometry, calls=2)
    spec = SmtSpec(4, "Aw", rounding="floor")
    content = plan_content([LayerPlan(conv_info, 2, False)], Folding({"c": "bn"}, {}), spec, ArrayConfig(8, 4), {})
    (tmp_path / "plan.json").write_text(json.dumps(content))
    conv = PlannedConv("c", SmtSpec(2, "Aw", rounding="floor"), False, "bn", geometry)
    assert read_plan(tmp_path / "plan.json") == PlanFile([conv], [])
    assert content["layers"][0]["calls"] == 2
