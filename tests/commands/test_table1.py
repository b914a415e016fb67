from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.command_line import SMALL, run
from helpers.imagenet_tree import make_imagenet_tree

from bnrecal.reports.table1 import HEADER, Row, long_table, markdown, paper_table, wide_table, write_report

ROWS = (
    "rows=[{source: PyTorch, label: Tiny, model: custom},"
    " {source: PyTorch, label: 'Tiny†', model: custom, spare_worst: true}]"
)
TINY = ["model.factory=helpers.nets:glyph_net", ROWS, *SMALL]
VARIANTS = ["a8w8", "a8w8_w", "2t_wo", "2t_w", "4t_wo", "4t_w"]


def test_the_table_is_whole_resumes_and_names_what_it_spares(tmp_path: Path) -> None:
    done = run(*TINY, "seeds=2", folder=tmp_path, module="bnrecal.commands.table1")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs" / "table1"
    table = pd.read_csv(out / "table1.csv")
    assert list(table.columns) == HEADER
    assert table["model"].tolist() == ["Tiny", "Tiny†"]
    assert table.notna().all(axis=None)
    long = pd.read_csv(out / "table1_long.csv")
    assert len(long) == 2 * 2 * 7
    assert set(long["cell"]) == {"fp32", *VARIANTS}
    assert long.loc[long["cell"].str.endswith("_w"), "gain_p"].between(0, 1).all()
    spared = long[(long["model"] == "Tiny†") & (long["cell"] == "4t_wo")]["one_thread"].iloc[0].split()
    assert set(spared) > {"depthwise"}
    means = long[(long["model"] == "Tiny") & (long["cell"] == "4t_w")]["top1"]
    assert table["4t_w"].iloc[0] == pytest.approx(means.mean(), abs=1e-3)
    assert "Tiny† spares" in (out / "table1.md").read_text()

    stamps = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    again = run(*TINY, "seeds=2", folder=tmp_path, module="bnrecal.commands.table1")
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == stamps


def test_a_failing_row_does_not_lose_the_others(tmp_path: Path) -> None:
    rows = "rows=[{source: a, label: Tiny, model: custom}, {source: b, label: Gone, model: resnet18}]"
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"PK\x03\x04 no checkpoint")
    arguments = ["model.factory=helpers.nets:glyph_net", rows, *SMALL, f"model.checkpoint={broken}"]
    done = run(*arguments, folder=tmp_path, module="bnrecal.commands.table1")
    assert done.returncode != 0
    assert "2 of 2 models failed" in done.stderr.splitlines()[-1]


def test_a_miniature_imagenet_runs_through_the_same_code(tmp_path: Path) -> None:
    make_imagenet_tree(tmp_path / "tree", corrupt=True)
    arguments = ["data=imagenet", f"data.root={tmp_path / 'tree'}", "data.skip_corrupt=true", "model.crop=32"]
    arguments += ["model.resize=36", "rows=[{source: PyTorch, label: ResNet-18, model: custom}]"]
    arguments += ["model.factory=helpers.nets:glyph_net", "model.kwargs={classes: 1000}", "workers=1"]
    arguments += ["calibration.images=4", "recalibration.images=4", "recalibration.batch_size=2", "batch_size=2"]
    done = run(*arguments, folder=tmp_path, module="bnrecal.commands.table1")
    assert done.returncode == 0, done.stderr
    long = pd.read_csv(tmp_path / "outputs" / "table1" / "table1_long.csv")
    assert {"paper", "difference", "agrees"} <= set(long.columns)
    assert long["paper"].notna().sum() == 6
    assert (long["skipped"] > 0).all()
    assert "Next to the paper" in (tmp_path / "outputs" / "table1" / "table1.md").read_text()


def cell(label: str, name: str, seed: int, top1: float, **own: object) -> dict[str, object]:
    base = dict.fromkeys(("threads", "recal", "recovered", "speedup", "cycles", "restricted_top1"), 1)
    values = {"top5": 99.0, "stderr": 0.5, "fp32_top1": 70.0, "fp32_top5": 90.0, "drop": 70.0 - top1, "skipped": 0}
    where = {"source": "PyTorch", "label": label, "cell": name, "seed": seed, "images": 100, "data": "glyphs"}
    sure = {"top1_wo_recal": top1 - 1, "gain": 1.0, "gain_p": 0.01, "exceptions": {}}
    source = {"provenance": {"weights_hash": "w", "cell": "c"}}
    return {**base, **values, **where, "top1": top1, **sure, **source, **own}


def test_seeds_are_averaged_and_losses_are_named(tmp_path: Path) -> None:
    tops = {"a8w8": 69.0, "a8w8_w": 69.0, "2t_wo": 68.0, "2t_w": 68.5, "4t_wo": 60.0, "4t_w": 59.0}
    cells = [cell("Net", name, seed, top + seed) for seed in (0, 2) for name, top in tops.items()]
    for one in cells:
        if one["cell"] == "4t_w":
            one["gain"] = -1.0
    rows = [Row("PyTorch", "Net", "net")]
    long = long_table(cells)
    wide = wide_table(long, rows)
    assert wide["4t_wo"].tolist() == [61.0]
    assert wide["fp32"].tolist() == [70.0]
    text = markdown(long, wide)
    assert f"61.00 ± {np.std([60, 62], ddof=1):.2f} (-9.00)" in text
    assert "PyTorch Net does not gain by recalibration at 4T: -1.00 points (significantly, p = 0.01)" in text
    write_report(cells, rows, tmp_path)
    assert (tmp_path / "table1.csv").read_text().startswith(",".join(HEADER))


def test_the_papers_table_is_internally_consistent() -> None:
    paper = paper_table()
    assert list(paper.columns) == HEADER
    assert len(paper) == 7
    gains = paper["4t_w"] - paper["4t_wo"]
    assert gains.gt(0).all()
