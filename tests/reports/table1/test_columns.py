"""A column of Table 1 is one line: everything that is measured, written or drawn follows from it."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.pages import read_page
from helpers.table1_cells import PAPERS, ROWS, TOPS, cells_of

import bnrecal.reports.table1.columns
from bnrecal.commands.table1 import plain_variants, write_report
from bnrecal.experiment.variant import Variant
from bnrecal.reports.table1.columns import Column, fastest_pair, header, measured, pairs, shown, threaded_pairs
from bnrecal.reports.table1.picture import write_table1_pictures


def test_the_columns_are_the_papers_and_the_control_is_measured_alone() -> None:
    assert header() == ["source", "model", "fp32", "a8w8", "2t_wo", "2t_w", "4t_wo", "4t_w"]
    assert [column.key for column in measured()] == ["a8w8", "a8w8_w", "2t_wo", "2t_w", "4t_wo", "4t_w"]
    assert [column.label for column in shown()] == ["FP32", "A8W8", "2T w/o", "2T w/", "4T w/o", "4T w/"]
    assert [(pair.without.key, pair.recalibrated.key) for pair in pairs()] == [
        ("a8w8", "a8w8_w"),
        ("2t_wo", "2t_w"),
        ("4t_wo", "4t_w"),
    ]
    assert [pair.gain_key for pair in threaded_pairs()] == ["2t_gain", "4t_gain"]
    assert fastest_pair().threads == 4


def test_every_column_has_a_variant_of_its_own() -> None:
    variants = plain_variants()
    assert list(variants.values()) == [Variant(t, recal) for t in (1, 2, 4) for recal in (False, True)]


def test_a_pair_that_is_added_appears_in_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = (
        Column("3t_wo", "3T w/o", "3T", 3),
        Column("3t_w", "3T w/", "3T", 3, recal=True),
    )
    monkeypatch.setattr(bnrecal.reports.table1.columns, "COLUMNS", (*PAPERS[:-2], *added, *PAPERS[-2:]))
    tops = {**TOPS, "3t_wo": 64.2, "3t_w": 67.3}
    cells = [cell for row in ROWS for cell in cells_of(row, tops, data="imagenet")]
    tables = write_report(cells, ROWS, tmp_path)
    write_table1_pictures(tables.wide, tmp_path)
    assert pd.read_csv(tmp_path / "table1.csv").columns[-4:].tolist() == ["3t_wo", "3t_w", "4t_wo", "4t_w"]
    assert pd.read_csv(tmp_path / "table1_gains.csv")["threads"].tolist() == [1, 2, 3, 4] * 2
    assert "3t_w" in pd.read_csv(tmp_path / "table1_long.csv")["cell"].tolist()
    text = (tmp_path / "table1.md").read_text()
    assert "| 2T w/ | 3T w/o | 3T w/ | 4T w/o |" in text
    assert "| 2T net | 3T | 3T net | 4T |" in text
    assert "2T without recalibration loses 2.00 points, 3T 5.80, 4T 9.70" in text
    page = " ".join(read_page(tmp_path / "report.html").text.split())
    assert "3T w/ 4T w/o" in page
    assert "3 threads (3T)" in page
    assert "64.20 −5.80" in page
    assert r"\multicolumn{2}{c}{3T}" in (tmp_path / "table1.tex").read_text()
    paper = pd.read_csv(tmp_path / "table1_paper.csv")
    assert not paper["quantity"].str.startswith("3t").any()  # the paper has no such numbers


def test_a_column_of_another_variant_is_measured_and_shown_and_makes_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Column("4t_1_wo", "4T, first 1T w/o", "4T, first 1T", 4, layers=(("layer1*", 1),))
    monkeypatch.setattr(bnrecal.reports.table1.columns, "COLUMNS", (*PAPERS, alone))
    assert plain_variants()[alone] == Variant(4, False, (("layer1*", 1),))
    assert [pair.threads for pair in pairs()] == [1, 2, 4]
    assert header()[-1] == "4t_1_wo"
