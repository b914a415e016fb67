from pathlib import Path

import pandas as pd
import pytest
from helpers.table1_cells import ROWS, TOPS, cells_of

from bnrecal.reports.table1.losses import Loss, LossChart, loss_charts
from bnrecal.reports.table1.numbers import make_tables
from bnrecal.reports.table1.picture import draw, write_table1_pictures


def wide() -> pd.DataFrame:
    return make_tables([cell for row in ROWS for cell in cells_of(row)], ROWS).wide


def test_all_three_files_are_written_and_the_png_is_the_same_every_time(tmp_path: Path) -> None:
    write_table1_pictures(wide(), tmp_path)
    png = (tmp_path / "table1.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "table1.svg").read_bytes()
    write_table1_pictures(wide(), tmp_path)
    assert (tmp_path / "table1.png").read_bytes() == png
    assert {path.name for path in tmp_path.iterdir()} == {"table1.png", "table1.svg", "table1.tex"}


def test_the_picture_says_every_loss_once_and_draws_the_papers_where_it_has_the_row() -> None:
    figure = draw(loss_charts(wide()))
    four = figure.axes[0]
    assert [axis.get_title() for axis in figure.axes] == ["4 threads (4T)", "2 threads (2T)"]
    assert all("percentage points" in axis.get_xlabel() for axis in figure.axes)
    paper = ["6.02", "1.86"]  # of ResNet-18, without and with
    lost = [f"{70 - TOPS[name]:.2f}" for name in ("4t_wo", "4t_w")]
    assert sorted(text.get_text() for text in four.texts) == sorted([*lost, *paper, *lost])
    assert [text.get_text() for text in four.get_yticklabels()] == ["ResNet-18\nPyTorch", "A<b>&_1%\nmy_own"]
    assert len(figure.legends[0].get_texts()) == 4


@pytest.mark.parametrize(("loss", "sides"), [(Loss(9.0, 3.0), "right left"), (Loss(3.0, 9.0), "left right")])
def test_numbers_stand_outside_the_dumbbell(loss: Loss, sides: str) -> None:
    (chart,) = [chart for chart in loss_charts(wide()) if chart.pair.threads == 4]
    figure = draw([LossChart(chart.pair, {("mine", "net"): loss}, {})])
    # a number to the left of its mark ends there
    beside = ["right" if text.get_horizontalalignment() == "left" else "left" for text in figure.axes[0].texts]
    assert beside == sides.split()


def test_equal_losses_are_reported_once() -> None:
    (chart,) = [chart for chart in loss_charts(wide()) if chart.pair.threads == 2]
    (axis,) = draw([LossChart(chart.pair, {("mine", "net"): Loss(1.5, 1.5)}, {})]).axes
    assert [text.get_text() for text in axis.texts] == ["1.50"]


def test_a_picture_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    write_table1_pictures(wide(), tmp_path / "file")
    (record,) = caplog.records
    assert "table1.png was not written" in record.getMessage()
