import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.command_line import SMALL, run
from helpers.imagenet_tree import make_imagenet_tree

import bnrecal.commands.table1
import bnrecal.experiment.run
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import Table1Config
from bnrecal.commands.table1 import measure_model, plain_variants
from bnrecal.experiment.results import Result
from bnrecal.experiment.setup import Experiment
from bnrecal.experiment.variant import Variant
from bnrecal.reports.table1.columns import Row, header

ROWS = (
    "rows=[{source: PyTorch, label: Tiny, model: custom},"
    " {source: PyTorch, label: 'Tiny†', model: custom, spare_worst: true}]"
)
TINY = ["model.factory=helpers.nets:glyph_net", ROWS, *SMALL]
VARIANTS = ["a8w8", "a8w8_w", "2t_wo", "2t_w", "4t_wo", "4t_w"]


@pytest.mark.usefixtures("several_processes")
def test_the_table_is_whole_resumes_and_names_what_it_spares(tmp_path: Path) -> None:
    done = run("table1", *TINY, "seeds=2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "outputs" / "table1"
    table = pd.read_csv(out / "table1.csv")
    assert list(table.columns) == header()
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

    written = {"report.html", "table1.png", "table1.svg", "table1.tex", "table1_layers.csv"}
    assert written <= {path.name for path in out.iterdir()}
    layers = pd.read_csv(out / "table1_layers.csv")
    assert layers.groupby("seed")["name"].nunique().to_dict() == {0: 4, 1: 4}
    assert (layers["steps"].dropna() > 0).all()
    assert "Not measured in these cells" not in (out / "report.html").read_text()

    stamps = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    again = run("table1", *TINY, "seeds=2", "jobs=1", folder=tmp_path)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == stamps


def test_a_row_measured_alone_is_found_by_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Row("PyTorch", "Tiny", "custom")
    spared = Row("PyTorch", "Tiny†", "custom", spare_worst=True)
    config = read_config(Table1Config, ["model=custom", *TINY])
    alone = measure_model(config, [spared], tmp_path)
    measured: list[Variant] = []

    def run_variants(experiment: Experiment, variants: list[Variant], **how: Any) -> list[Result]:
        measured.extend(variants)
        return bnrecal.experiment.run.run_variants(experiment, variants, **how)

    monkeypatch.setattr(bnrecal.commands.table1, "run_variants", run_variants)
    both = measure_model(config, [plain, spared], tmp_path)
    assert measured == list(plain_variants().values())  # of the plain row alone
    assert [cell["label"] for cell in both] == ["Tiny"] * 6 + ["Tiny†"] * 6
    assert json.loads(json.dumps(both[6:])) == json.loads(json.dumps(alone))
    named = measure_model(config, [Row("Mine", "Other name", "custom")], tmp_path)
    assert measured == list(plain_variants().values())
    assert named == [{**cell, "source": "Mine", "label": "Other name"} for cell in both[:6]]


def test_a_failing_row_does_not_lose_the_others(tmp_path: Path) -> None:
    rows = "rows=[{source: a, label: Tiny, model: custom}, {source: b, label: Gone, model: resnet18}]"
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"PK\x03\x04 no checkpoint")
    arguments = ["model.factory=helpers.nets:glyph_net", rows, *SMALL, f"model.checkpoint={broken}"]
    done = run("table1", *arguments, "jobs=1", folder=tmp_path)
    assert done.returncode != 0
    assert "2 of 2 models failed" in done.stderr.splitlines()[-1]


def test_a_miniature_imagenet_runs_through_the_same_code(tmp_path: Path) -> None:
    make_imagenet_tree(tmp_path / "tree", corrupt=True)
    arguments = ["data=imagenet", f"data.root={tmp_path / 'tree'}", "data.skip_corrupt=true", "model.crop=32"]
    arguments += ["model.resize=36", "rows=[{source: PyTorch, label: ResNet-18, model: custom}]"]
    arguments += ["model.factory=helpers.nets:glyph_net", "model.kwargs={classes: 1000}", "workers=1"]
    arguments += ["calibration.images=4", "recalibration.images=4", "recalibration.batch_size=2", "batch_size=2"]
    done = run("table1", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    long = pd.read_csv(tmp_path / "outputs" / "table1" / "table1_long.csv")
    assert (long["skipped"] > 0).all()
    paper = pd.read_csv(tmp_path / "outputs" / "table1" / "table1_paper.csv")
    assert len(paper) == 8  # six levels and two gains
    assert paper["agrees"].isna().all()
    assert "Next to the paper" in (tmp_path / "outputs" / "table1" / "table1.md").read_text()
