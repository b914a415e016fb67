import base64
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.pages import numbers_of, read_page
from helpers.table1_cells import LAYERS, ROWS, TOPS, cells_of, layer

from bnrecal.commands.table1 import write_report
from bnrecal.reports.table1.layers import _decades, layer_charts, layer_records
from bnrecal.reports.table1.losses import Loss, LossChart, loss_axis, loss_charts, mean_loss
from bnrecal.reports.table1.numbers import make_tables
from bnrecal.reports.table1.page import panel, write_table1_page
from bnrecal.reports.table1.records import CellRecord


def table1(out: Path, cells: list[CellRecord]) -> Path:
    write_report(cells, ROWS, out)
    return out / "report.html"


def both_rows(**how: Any) -> list[CellRecord]:
    return [cell for row in ROWS for cell in cells_of(row, **how)]


def test_every_number_of_the_tables_stands_in_the_page_and_can_be_saved_out_of_it(tmp_path: Path) -> None:
    page = read_page(table1(tmp_path, both_rows()))
    names = ["table1", "table1_gains", "table1_layers", "table1_long"]
    for name in names:
        path = tmp_path / f"{name}.csv"
        missing = [field for field in numbers_of(path) if field not in page.text]
        assert missing == []
    saved = [base64.b64decode(link.split(",", 1)[1]) for link in page.links if link.startswith("data:text/csv")]
    assert saved == [(tmp_path / f"{name}.csv").read_bytes() for name in names]


def test_the_table_shows_the_papers_values_only_where_it_has_the_row(tmp_path: Path) -> None:
    page = read_page(table1(tmp_path, both_rows()))
    main = page.text.split("The table")[1].split("What recalibration gains")[0]
    paper, mine = main.split("A<b>&_1%")
    assert "60.30" in paper
    assert "−9.70" in paper
    assert "paper 63.74 (−6.02)" in " ".join(paper.split())
    assert "66.20" in mine
    assert "paper" not in mine
    assert "Compare directions, not levels" in page.text


def test_a_significant_loss_by_recalibration_is_called_worse(tmp_path: Path) -> None:
    loses_at_two = {**TOPS, "2t_w": 66.0}
    page = read_page(table1(tmp_path, cells_of(ROWS[0], loses_at_two)))
    gains = " ".join(page.text.split("What recalibration gains")[1].split())
    assert "−2.00 (worse) p = 1.9e-06 net −2.10 (worse)" in gains  # 20 images lost, none gained: 2 / 2^20
    assert "+5.90 p = " in gains


def test_what_was_run_and_how_long_is_reported(tmp_path: Path) -> None:
    page = read_page(table1(tmp_path, both_rows()))
    reported = " ".join(page.text.split())
    for words in ("2 min 23 s in all on cpu, AVX2, 2 threads", "resnet18 0 1 min 12 s", "torch 2.14.1", "smt.policy A"):
        assert words in reported, words
    assert "smt.plan" not in reported  # not set
    assert "validation 1000 of val, f00d" in reported


def test_cells_without_layers_say_so_and_how_to_get_them(tmp_path: Path) -> None:
    page = read_page(table1(tmp_path, both_rows(layers=False)))
    assert "Not measured in these cells" in page.text
    assert "resume=false" in page.text
    assert not (tmp_path / "table1_layers.csv").exists()


def test_layers_are_drawn_where_they_were_measured() -> None:
    cells = cells_of(ROWS[0]) + cells_of(ROWS[0], seed=1)
    (chart,) = layer_charts(cells)  # the first seed's
    assert chart.count == 2  # nothing is measured of the first convolution
    assert chart.colliding == pytest.approx(45.0)
    first, second = chart.bars
    assert [part.active for part in first.parts] == [2, 3, 4]
    assert sum(part.height for part in first.parts) == pytest.approx(0.6 * 90, abs=0.2)
    assert first.parts[0].y + first.parts[0].height == pytest.approx(90)
    assert second.x == pytest.approx(50)
    assert LAYERS[1]["name"] in first.tip
    assert [dot.w is None for dot in chart.dots] == [False, True]  # no error has no place on a logarithmic axis


def test_a_page_that_cannot_be_written_is_one_warning_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = both_rows()
    tables = write_report(cells, ROWS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for cell in cells:
        del cell["seconds"]  # type: ignore[misc] # as if another version had written it
    write_table1_page(tables, cells, tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "report.html was not written (KeyError: 'seconds')" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_far_value_of_the_papers_does_not_squeeze_the_chart() -> None:
    assert loss_axis([1.0, 7.6], [25.6, 9.9]).high == 10
    assert loss_axis([1.0, 17.6], [25.6, 9.9]).high == 30  # not so far off
    assert loss_axis([30.0, 7.6], [9.9]).high == 30  # our own is always in sight
    (four,) = [chart for chart in loss_charts(make_tables(both_rows(), ROWS).wide) if chart.pair.threads == 4]
    key = ("PyTorch", "ResNet-18")
    drawn = panel(LossChart(four.pair, {key: Loss(7.6, 4.0)}, {key: Loss(25.6, 4.0)}))
    assert drawn.beyond
    (row,) = drawn.rows
    assert row.paper is not None
    assert row.paper.wo.beyond
    assert row.paper.wo.text == "25.60"
    assert not row.own.wo.beyond
    assert row.own.wo.right
    assert not row.own.w.right


def test_layers_are_kept_with_all_their_digits() -> None:
    table = pd.DataFrame({"name": ["conv1", "conv2"], "relative_mse": [0.123456789012345, float("nan")]})
    first, second = map(dict, layer_records(table))
    assert first == {"name": "conv1", "relative_mse": 0.123456789012345}
    assert second == {"name": "conv2", "relative_mse": None}


def test_without_any_error_the_axis_has_three_decades() -> None:
    assert _decades([layer("conv1", 0.5, 0.0), layer("conv2", 0.5, None)]) == (-3, 0)
    assert _decades([layer("conv1", 0.5, 0.02), layer("conv2", 0.5, 0.0)]) == (-2, -1)


def test_losses_are_averaged_over_the_rows() -> None:
    assert mean_loss([Loss(8.0, 2.0), Loss(4.0, 1.0)]) == Loss(6.0, 1.5)
    assert mean_loss([]) is None


def test_the_paper_is_absent_without_its_rows(tmp_path: Path) -> None:
    page = read_page(table1(tmp_path, cells_of(ROWS[1])))
    assert "the paper's" not in page.text.split("What was run")[0]
