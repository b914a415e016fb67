import html
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from bnrecal.errors import BnrecalError
from bnrecal.evaluation.accuracy import Correctness
from bnrecal.evaluation.significance import mcnemar
from bnrecal.experiment.records import ResultRecord
from bnrecal.experiment.results import (
    Details,
    Result,
    accuracies,
    missing_details,
    read_json,
    summary,
    write_details,
    write_result,
)

IMAGES = 200


def right(top1: int, *, top5: int = 190, first: int = 0, restricted: int | None = None) -> Correctness:
    """So many of 200 images right, from image `first` on."""
    images = np.arange(IMAGES)
    of_classes = None if restricted is None else images < restricted
    return Correctness((images >= first) & (images < first + top1), images < top5, of_classes, skipped=3)


FP32 = right(160, top5=196)
A8W8 = right(150, top5=194)
CONTROL = right(152)


def test_the_accuracies_of_a_recalibrated_cell_by_hand() -> None:
    with_recal = right(130, top5=180, first=2, restricted=140)
    without = right(110)
    found = accuracies(with_recal, without, FP32, A8W8, CONTROL)
    assert found == {
        "images": 200,
        "top1": 65.0,
        "top5": 90.0,
        "stderr": pytest.approx(100 * np.sqrt(0.65 * 0.35 / 200)),
        "fp32_top1": 80.0,
        "fp32_top5": 98.0,
        "a8w8_top1": 75.0,
        "a8w8_top5": 97.0,
        "drop": 15.0,
        "top1_wo_recal": pytest.approx(55.0),
        "gain": pytest.approx(10.0),
        "gain_p": pytest.approx(mcnemar(without.top1, with_recal.top1)),  # 22 gained, 2 lost
        "control_gain": 1.0,
        "loss_p": pytest.approx(2.0**-39),  # 40 lost, none gained
        "recovered": pytest.approx((10 - 1) / 20),
        "recovered_low": pytest.approx(0.231309, abs=1e-5),
        "recovered_high": pytest.approx(0.647494, abs=1e-5),
        "restricted_top1": 70.0,
        "skipped": 3,
    }


def test_a_cell_without_recalibration_has_no_gain_and_no_share_recovered() -> None:
    without = right(110)
    found = accuracies(without, without, FP32, A8W8, None)
    assert (found["gain"], found["gain_p"], found["control_gain"]) == (0.0, None, None)
    assert (found["recovered"], found["recovered_low"], found["recovered_high"]) == (None, None, None)
    assert found["restricted_top1"] is None
    assert found["loss_p"] < 1e-9


@pytest.mark.parametrize(
    ("without", "why"), [(145, "five of 150 lost: p = 0.06"), (150, "no loss"), (170, "better than A8W8")]
)
def test_of_a_loss_that_is_none_nothing_is_recovered(without: int, why: str) -> None:
    found = accuracies(right(180), right(without), FP32, A8W8, CONTROL)
    assert (found["recovered"], found["recovered_low"], found["recovered_high"]) == (None, None, None), why


def test_of_a_share_that_is_not_known_well_the_interval_alone_is_reported() -> None:
    # as many are gained, but 30 more images change back and forth
    found = accuracies(right(130, first=30), right(110), FP32, A8W8, CONTROL)
    low, high = found["recovered_low"], found["recovered_high"]
    assert found["recovered"] is None
    assert low is not None
    assert high is not None
    assert low < (10 - 1) / 20 < high
    assert high - low > (10 - 1) / 20


RESULT: dict[str, Any] = {
    "model": "resnet18",
    "data": "glyphs",
    "threads": 4,
    "recal": True,
    "images": 5000,
    "top1": 66.25,
    "top5": 91.125,
    "stderr": 0.672,
    "fp32_top1": 70.5,
    "a8w8_top1": 69.75,
    "drop": 4.25,
    "top1_wo_recal": 60.5,
    "gain": 5.75,
    "gain_p": 0.00123,
    "control_gain": -0.25,
    "recovered": 0.7,
    "recovered_low": 0.512,
    "recovered_high": 0.791,
    "restricted_top1": 68.0,
    "skipped": 2,
    "speedup": 3.456,
    "policy": "A",
    "cycles": 1234567,
    "cycle_speedup": 2.345,
    "exceptions": {},
    "provenance": {"engine": "oneDNN", "device": "cpu, AVX2", "weights": "resnet18.pth"},
}


def lines_of(changes: dict[str, Any], where: Path | None = None) -> list[str]:
    """The summary of RESULT with some fields changed."""
    return summary(cast(ResultRecord, {**RESULT, **changes}), where).splitlines()


def test_the_record_of_a_result_has_all_its_fields_but_images_and_tables() -> None:
    beside = {"outcome", "fp32_outcome", "layers", "batchnorm", "state_dict"}
    assert set(ResultRecord.__annotations__) == {field.name for field in fields(Result)} - beside


def test_the_summary_of_a_recalibrated_run(tmp_path: Path) -> None:
    assert lines_of({}, tmp_path) == [
        "resnet18 on glyphs, 4 threads with recalibration, 5000 images",
        "  top-1       66.25 % ± 0.67   (top-5 91.12 %)",
        "  float32     70.50 %   drop +4.25 points",
        "  A8W8        69.75 %   drop +3.50 points",
        "  w/o recal   60.50 %   gain +5.75 points (McNemar p = 0.0012); A8W8 itself gains -0.25",
        "  net of that, 70 % of the loss to A8W8 is recovered (95 % confidence: 51 to 79 %)",
        "  top-1 among the data set's own classes: 68.00 %",
        "  2 unreadable images were skipped",
        "  speedup      3.46 x by products, 2.35 x by array cycles (1,234,567 per image)",
        "  sums by oneDNN, cpu, AVX2",
        "  weights resnet18.pth",
        f"  written to {tmp_path}",
    ]


def test_the_summary_of_a_plain_run_names_at_most_five_exceptions_of_a_kind(tmp_path: Path) -> None:
    few = dict.fromkeys("abcde", "depthwise: 1 thread")
    many = {f"conv{place}": "smt.layers: 2 threads" for place in range(6)}
    shares = dict.fromkeys(("recovered", "recovered_low", "recovered_high"))
    left_out = {**shares, "restricted_top1": None, "skipped": 0}
    custom = lines_of({"policy": "mine:RULE"})[0]
    assert custom == "resnet18 on glyphs, 4 threads by policy mine:RULE with recalibration, 5000 images"
    reported = lines_of({**left_out, "recal": False, "exceptions": {**few, **many}}, tmp_path)
    assert reported[0] == "resnet18 on glyphs, 4 threads without recalibration, 5000 images"
    assert reported[4:] == [
        "  speedup      3.46 x by products, 2.35 x by array cycles (1,234,567 per image)",
        "  sums by oneDNN, cpu, AVX2",
        "  weights resnet18.pth",
        "  depthwise: 1 thread: a, b, c, d, e",
        "  smt.layers: 2 threads: conv0, conv1, conv2, conv3 and 2 more (layers.csv)",
        f"  written to {tmp_path}",
    ]
    recalibrated = "\n".join(lines_of(left_out))
    assert "w/o recal" in recalibrated
    assert "recovered" not in recalibrated
    line = "  net of that, -3 to 79 % of the loss to A8W8 is recovered (95 % confidence)"
    assert line in lines_of({"recovered": None, "recovered_low": -0.031})


def test_a_notebook_shows_the_summary_with_every_text_escaped() -> None:
    others: dict[str, Any] = {field.name: None for field in fields(Result) if field.name not in RESULT}
    shown = Result(**{**others, **RESULT, "model": "<script>"})._repr_html_()
    text = html.unescape(shown.removeprefix("<pre>").removesuffix("</pre>"))
    assert text.splitlines() == lines_of({"model": "<script>"})
    assert shown.startswith("<pre>&lt;script&gt; on glyphs, 4 threads with recalibration, 5000 images\n")
    assert "written to" not in shown


def test_what_is_missing_beside_a_result_is_named_until_it_is_written(tmp_path: Path) -> None:
    assert missing_details(tmp_path, checkpoint=False) == ["layers.csv", "batchnorm.csv"]
    table = pd.DataFrame({"name": ["conv1"], "mse": [0.5]})
    state = {"bn.running_mean": torch.ones(2)}
    write_details(Details(table, table, state), tmp_path)
    assert missing_details(tmp_path, checkpoint=False) == []
    assert missing_details(tmp_path, checkpoint=True) == ["checkpoint.pth"]
    assert (tmp_path / "layers.csv").read_text() == "name,mse\nconv1,0.5\n"
    write_details(Details(None, None, state), tmp_path, checkpoint=True)
    assert missing_details(tmp_path, checkpoint=True) == []
    assert torch.equal(torch.load(tmp_path / "checkpoint.pth")["bn.running_mean"], torch.ones(2))


def test_a_result_is_written_line_by_line(tmp_path: Path) -> None:
    others: dict[str, Any] = {field.name: None for field in fields(Result) if field.name not in RESULT}
    result = Result(**{**others, **RESULT})
    for name in ("layers.csv", "batchnorm.csv", "checkpoint.pth"):
        (tmp_path / name).write_text("of another experiment")
    path = write_result(result, tmp_path)
    assert path == tmp_path / "result.json"
    assert path.read_text() == json.dumps(result.to_json(), indent=2) + "\n"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    state = {"bn.running_mean": torch.ones(2)}
    write_result(replace(result, state_dict=state), tmp_path, checkpoint=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pth", "result.json"]


def test_a_file_without_a_json_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "piece.json"
    with pytest.raises(BnrecalError, match=r"piece.json cannot be read: .*No such file"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(BnrecalError, match=r"piece.json holds no JSON object"):
        read_json(path)
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}
