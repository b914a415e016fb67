"""`plan.json` gives back what was written, of a convolution whose rows and columns differ in everything."""

import json
from pathlib import Path

import torch

from bnrecal.config import ArrayConfig
from bnrecal.export.fold import Folding
from bnrecal.export.plan_file import PlanFile, PlannedConv, plan_content, read_plan
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.layer_plan import LayerPlan


def test_a_convolution_called_twice_is_read_back_with_its_own_rows_and_columns(tmp_path: Path) -> None:
    geometry = Geometry(stride=(1, 2), padding=(3, 0), dilation=(2, 1), groups=2)
    info = ConvInfo("c", 1, torch.zeros(6, 4, 3, 1), (8, 5, 4), (6, 7, 2), geometry, calls=2)
    spec = SmtSpec(4, "Aw", rounding="floor")
    content = plan_content([LayerPlan(info, 2, False)], Folding({"c": "bn"}, {}), spec, ArrayConfig(8, 4), {})
    (tmp_path / "plan.json").write_text(json.dumps(content))
    conv = PlannedConv("c", SmtSpec(2, "Aw", rounding="floor"), False, "bn", (1, 2), (3, 0), (2, 1), 2)
    assert read_plan(tmp_path / "plan.json") == PlanFile([conv], [])
    assert content["layers"][0]["calls"] == 2
