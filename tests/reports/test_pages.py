import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.figure1_points import points
from helpers.pages import numbers_of, read_page
from helpers.table1_cells import LAYERS, REORDERED, ROWS, TOPS, cells_of

from bnrecal.reports.figure1 import CURVES, write_figure
from bnrecal.reports.figure1_html import write_figure1_page
from bnrecal.reports.page import Axis, duration, number
from bnrecal.reports.table1 import write_report
from bnrecal.reports.table1_html import loss_axis, panel, write_table1_page
from bnrecal.reports.table1_layers import layer_charts, write_layers


def table1(out: Path, cells: list[dict[str, Any]]) -> Path:
    tables = write_report(cells, ROWS, out)
    write_layers(cells, out)
    write_table1_page(tables, cells, out)
    return out / "report.html"


def both_rows(**how: Any) -> list[dict[str, Any]]:
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


def test_reordered_channels_stand_beside_the_rest_with_what_they_gain(tmp_path: Path) -> None:
    cells = [cell for row in ROWS for cell in cells_of(row, REORDERED)]
    page = read_page(table1(tmp_path, cells))
    told = " ".join(page.text.split())
    assert "4T r. w/o 4T r. w/" in told
    main, rest = told.split("The table")[1].split("What reordering channels gains")
    assert "61.30 −8.70 66.10 −3.90" in main  # the paper has no such columns
    # 613 of 1,000 images instead of 603, and 661 instead of 662
    assert "smt.reorder=bits" in rest
    assert "ResNet-18 PyTorch +1.00 p = 0.002 −0.10 p = 1" in rest
    assert "Four threads, channels reordered" in told
    assert "2 min 43 s in all" in told  # of each row 71.5 s, and 10 s for the reordered cells
    table = pd.read_csv(tmp_path / "table1_reordered.csv")
    assert table[["gain_wo", "gain_w"]].to_numpy() == pytest.approx(np.array([[1.0, -0.1]] * 2))
    text = (tmp_path / "table1.md").read_text()
    assert "| PyTorch | ResNet-18 | +1.00 (p = 0.002) | -0.10 (p = 1) |" in text
    assert "| 61.30 (-8.70) | 66.10 (-3.90) |" in text
    table1(tmp_path, both_rows())
    assert not (tmp_path / "table1_reordered.csv").exists()


def test_what_was_run_and_how_long_is_told(tmp_path: Path) -> None:
    page = read_page(table1(tmp_path, both_rows()))
    told = " ".join(page.text.split())
    for words in ("2 min 23 s in all on cpu, AVX2, 2 threads", "resnet18 0 1 min 12 s", "torch 2.14.1", "smt.policy A"):
        assert words in told, words
    assert "smt.plan" not in told  # not set
    assert "validation 1000 of val, f00d" in told


def test_cells_without_layers_say_so_and_how_to_get_them(tmp_path: Path) -> None:
    page = read_page(table1(tmp_path, both_rows(layers=False)))
    assert "Not measured in these cells" in page.text
    assert "resume=false" in page.text
    assert not (tmp_path / "table1_layers.csv").exists()


def test_layers_are_drawn_where_they_were_measured() -> None:
    cells = cells_of(ROWS[0]) + cells_of(ROWS[0], seed=1)
    (chart,) = layer_charts(cells)  # the first seed's
    assert chart["count"] == 2  # nothing is measured of the first convolution
    assert chart["colliding"] == pytest.approx(45.0)
    first, second = chart["bars"]
    assert [part["active"] for part in first["parts"]] == [2, 3, 4]
    assert sum(part["height"] for part in first["parts"]) == pytest.approx(0.6 * 90, abs=0.2)
    assert first["parts"][0]["y"] + first["parts"][0]["height"] == pytest.approx(90)
    assert second["x"] == pytest.approx(50)
    assert LAYERS[1]["name"] in first["tip"]
    assert [dot["w"] is None for dot in chart["dots"]] == [False, True]  # no error has no place on a logarithmic axis


def test_a_page_that_cannot_be_written_is_one_warning_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = both_rows()
    tables = write_report(cells, ROWS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for cell in cells:
        del cell["seconds"]  # as if another version had written it
    write_table1_page(tables, cells, tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "report.html was not written (KeyError: 'seconds')" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_figures_page_holds_every_point(tmp_path: Path) -> None:
    made = points()
    write_figure(made, tmp_path)
    write_figure1_page(made, tmp_path)
    page = read_page(tmp_path / "report.html")
    missing = [field for field in numbers_of(tmp_path / "figure1.csv") if field not in page.text]
    assert missing == []
    assert page.source.count('<g class="mark" tabindex="0">') == len(made)
    for name, _ in CURVES.values():
        assert name in page.text
    assert "25 min 00 s" in page.text  # two pieces: reordered channels are measured apart
    told = " ".join(page.text.split())
    assert "found by the search: better at 12 of 12 operating points, worse at 0, too close to tell at 0." in told
    for label in ("ResNet-18", "ResNet-18 P40", "GoogLeNet"):
        spent = (
            "search measured 78 choices (those of single layers among them) over 50,688 images, random orders 50 over"
        )
        assert f"{label}: on training images the {spent} 51,200." in told
    assert "the paper leaves open which layers it slowed" in told
    assert "on as many images: better at 0 of 12 operating points, worse at 0, too close to tell at 12." in told
    assert "every layer reordered: better at 0 of 12 operating points, worse at 0, too close to tell at 12." in told
    assert "smt.reorder=bits" in told
    assert "(c) GoogLeNet: 4T with some 1T" in page.text


def test_a_figure_without_reordered_channels_says_nothing_of_them(tmp_path: Path) -> None:
    made = [point for point in points() if point["method"] != "reordered"]
    write_figure(made, tmp_path)
    write_figure1_page(made, tmp_path)
    told = read_page(tmp_path / "report.html").text.split("The curves")[1]
    assert "reordered" not in told
    assert "smt.reorder" not in told
    assert "12 min 30 s" in told


def test_a_figure_of_older_cells_says_that_their_time_is_not_known(tmp_path: Path) -> None:
    made = [{key: value for key, value in p.items() if key not in ("seconds", "device")} for p in points()]
    write_figure(made, tmp_path)
    write_figure1_page(made, tmp_path)
    assert "not noted" in read_page(tmp_path / "report.html").text


def test_an_axis_holds_its_values_between_round_ticks() -> None:
    axis = Axis.over([3.4, -0.2, 9.9])
    assert (axis.low, axis.high) == (-2.5, 10)
    assert axis.labels() == ["−2.5", "0.0", "2.5", "5.0", "7.5", "10.0"]
    assert axis.x(-2.5) < axis.x(0) < axis.x(9.9) < axis.x(10)
    assert axis.share(25) == 1  # on the edge
    assert Axis.over([2.0, 4.0], zero=False).low == 2
    assert Axis.over([]).share(0) == 0


def test_one_far_value_of_the_papers_does_not_squeeze_the_chart() -> None:
    assert loss_axis([1.0, 7.6], [25.6, 9.9]).high == 10
    assert loss_axis([1.0, 17.6], [25.6, 9.9]).high == 30  # not so far off
    assert loss_axis([30.0, 7.6], [9.9]).high == 30  # our own is always in sight
    key = ("PyTorch", "ResNet-18")
    own = {"fp32": 70.0, "a8w8": 69.0, "2t_wo": 68.0, "2t_w": 68.5, "4t_wo": 62.4, "4t_w": 66.0}
    drawn = panel("4t", "Four threads", {key: own}, {key: {**own, "4t_wo": 44.4, "4t_w": 66.0}})
    (row,) = drawn["rows"]
    assert row["paper"]["wo"]["beyond"]
    assert row["paper"]["wo"]["text"] == "25.60"
    assert not row["own"]["wo"]["beyond"]
    assert row["own"]["wo"]["right"]
    assert not row["own"]["w"]["right"]


@pytest.mark.parametrize(
    ("value", "text"), [(-1.234, "−1.23"), (0.0, "0.00"), (None, "–"), (float("nan"), "–"), (12.0, "12.00")]
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (59.6, "1 min 00 s"), (191, "3 min 11 s"), (3725, "1 h 02 min")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_paper_is_absent_without_its_rows(tmp_path: Path) -> None:
    cells = cells_of(ROWS[1], TOPS)
    write_table1_page(write_report(cells, ROWS, tmp_path), cells, tmp_path)
    page = read_page(tmp_path / "report.html")
    assert "the paper's" not in page.text.split("What was run")[0]
