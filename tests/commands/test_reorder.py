"""`reorder=true` of table1 and figure1: what is shown beside the rest, and that the rest is measured no second time."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import bnrecal.commands.figure1
import bnrecal.commands.table1
import bnrecal.experiment.setup
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import Figure1Config, Table1Config
from bnrecal.commands.figure1 import make_figure1
from bnrecal.commands.table1 import make_table1
from bnrecal.data.glyphs import GlyphSource
from bnrecal.errors import BnrecalError

SMALL = ["model=custom", "model.factory=helpers.nets:glyph_net", "data.val_images=20", "calibration.images=32"]
SMALL += ["device=cpu", "recalibration.images=32", "recalibration.batch_size=16"]
ROWS = "rows=[{source: a, label: Tiny, model: custom}, {source: a, label: 'Tiny†', model: custom, spare_worst: true}]"
FIGURE = ["networks=[{panel: a, label: Net, model: custom, plan: false}]", "points=3"]
ORDERED = ["4t_r_wo", "4t_r_w"]


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))


def table1(out: Path, *overrides: str) -> pd.DataFrame:
    own = [*SMALL, ROWS, f"out={out}", *overrides]
    make_table1(read_config(Table1Config, own), own)
    return pd.read_csv(out / "table1.csv")


def figure1(out: Path, *overrides: str) -> pd.DataFrame:
    own = [*SMALL, *FIGURE, f"out={out}", *overrides]
    make_figure1(read_config(Figure1Config, own), own)
    return pd.read_csv(out / "figure1.csv")


def cells(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}


def test_the_table_gets_two_columns_and_loses_them_again(tmp_path: Path) -> None:
    plain, before = table1(tmp_path), cells(tmp_path)
    shown = table1(tmp_path, "reorder=true", "smt.reorder=random:3")
    assert list(shown.columns) == [*plain.columns, *ORDERED]
    assert shown[plain.columns].equals(plain)
    after = cells(tmp_path)
    assert len(after) == len(before) + 2  # one a row
    assert before.items() <= after.items()

    long = pd.read_csv(tmp_path / "table1_long.csv")
    assert long["model"].tolist() == ["Tiny"] * 9 + ["Tiny†"] * 9
    spared = long.set_index(["model", "cell"])["spared"]
    assert spared["Tiny†", "4t_r_w"] == spared["Tiny†", "4t_w"]  # the same layer, whatever errs most when reordered
    orders = pd.read_csv(tmp_path / "table1_reordered.csv")
    assert orders["reorder"].tolist() == ["random:3"] * 2
    for end in ("wo", "w"):
        assert orders[f"gain_{end}"].tolist() == pytest.approx((shown[f"4t_r_{end}"] - shown[f"4t_{end}"]).tolist())
    assert "4T r. w/o" in (tmp_path / "table1.md").read_text()
    assert "smt.reorder=random:3" in (tmp_path / "report.html").read_text()

    # the same cells as those of a table that is reordered throughout
    table1(tmp_path / "throughout", "smt.reorder=random:3")
    throughout = pd.read_csv(tmp_path / "throughout" / "table1_long.csv")
    for own, same in zip(ORDERED, ("4t_wo", "4t_w"), strict=True):
        (ours,), (theirs,) = (
            t.loc[(t["model"] == "Tiny") & (t["cell"] == c), "content"] for t, c in ((long, own), (throughout, same))
        )
        assert ours == theirs

    assert table1(tmp_path).equals(plain)
    assert cells(tmp_path) == after
    assert not (tmp_path / "table1_reordered.csv").exists()
    assert "4T r." not in (tmp_path / "report.html").read_text()


def test_the_figure_gets_a_curve_beside_the_same_points(tmp_path: Path) -> None:
    plain, before = figure1(tmp_path), cells(tmp_path)
    shown, after = figure1(tmp_path, "reorder=true"), cells(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    usual, own = shown[shown["method"] == "highest_error"], shown[shown["method"] == "reordered"]
    pd.testing.assert_frame_equal(usual, plain)
    beside = usual[usual["recal"]].reset_index(drop=True)
    own = own.reset_index(drop=True)
    assert own["reorder"].tolist() == ["bits"] * 3
    assert own["recal"].all()
    for column in ("speedup", "target", "slowed", "layers"):
        assert own[column].equals(beside[column])
    assert own["above_highest_error"].to_numpy() == pytest.approx((own["top1"] - beside["top1"]).to_numpy(), abs=1e-4)
    assert own.loc[own["slowed"] == 0, "content"].item() != beside.loc[beside["slowed"] == 0, "content"].item()
    assert "right" not in shown
    page = (tmp_path / "report.html").read_text()
    assert "channels reordered" in page
    assert "smt.reorder=bits" in page


@pytest.mark.parametrize("make", [table1, figure1])
def test_an_order_that_is_none_is_refused(tmp_path: Path, make: Callable[..., pd.DataFrame]) -> None:
    with pytest.raises(BnrecalError, match=r"smt\.reorder=none: reorder=true shows an order, choose"):
        make(tmp_path, "reorder=true", "smt.reorder=none")
