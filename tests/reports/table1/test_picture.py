from pathlib import Path

import pytest
from helpers.table1_cells import ROWS, TOPS, cells_of

from bnrecal.reports.table1.numbers import make_tables
from bnrecal.reports.table1.page import by_row
from bnrecal.reports.table1.paper import paper_table
from bnrecal.reports.table1.picture import draw, escaped, tex, write_table1_pictures

WIDE = make_tables([cell for row in ROWS for cell in cells_of(row)], ROWS).wide


def test_all_three_files_are_written_and_the_png_is_the_same_every_time(tmp_path: Path) -> None:
    write_table1_pictures(WIDE, tmp_path)
    png = (tmp_path / "table1.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "table1.svg").read_bytes()
    write_table1_pictures(WIDE, tmp_path)
    assert (tmp_path / "table1.png").read_bytes() == png
    assert {path.name for path in tmp_path.iterdir()} == {"table1.png", "table1.svg", "table1.tex"}


def test_the_picture_says_every_loss_once_and_draws_the_papers_where_it_has_the_row() -> None:
    figure = draw(by_row(WIDE), by_row(paper_table()))
    four = figure.axes[0]
    assert [axis.get_title() for axis in figure.axes] == ["Four threads", "Two threads"]
    assert all("percentage points" in axis.get_xlabel() for axis in figure.axes)
    paper = ["6.02", "1.86"]  # of ResNet-18, without and with
    lost = [f"{70 - TOPS[name]:.2f}" for name in ("4t_wo", "4t_w")]
    assert sorted(text.get_text() for text in four.texts) == sorted([*lost, *paper, *lost])
    assert [text.get_text() for text in four.get_yticklabels()] == ["ResNet-18\nPyTorch", "A<b>&_1%\nmy_own"]
    assert len(figure.legends[0].get_texts()) == 4


def test_equal_losses_are_told_once() -> None:
    row = ("mine", "net")
    same = {row: {"fp32": 70.0, "a8w8": 69.0, "2t_wo": 68.5, "2t_w": 68.5, "4t_wo": 60.0, "4t_w": 61.0}}
    _, two = draw(same, {}).axes
    assert [text.get_text() for text in two.texts] == ["1.50"]


def test_the_latex_table_has_the_papers_layout() -> None:
    lines = tex(by_row(WIDE)).splitlines()
    assert lines[1] == r"\begin{tabular}{llrrrrrr}"
    assert lines[-1] == r"\end{tabular}"
    assert all(sum(rule in line for line in lines) == 1 for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    (first, second) = [line for line in lines if "69.00" in line]
    assert first == (
        r"PyTorch & ResNet-18 & 70.00 & 69.00 & 68.00 ($-2.00$) & 68.50 ($-1.50$) "
        r"& 60.30 ($-9.70$) & 66.20 ($-3.80$) \\"
    )
    assert second.startswith(r"my\_own & A<b>\&\_1\% & 70.00")


@pytest.mark.parametrize(
    ("text", "shown"), [("GoogLeNet†", r"GoogLeNet\textsuperscript{\dag}"), ("a\\b", r"a\textbackslash{}b")]
)
def test_names_are_made_harmless_to_latex(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_picture_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    write_table1_pictures(WIDE, tmp_path / "file")
    (record,) = caplog.records
    assert "table1.png was not written" in record.getMessage()
