from pathlib import Path

from helpers.figure1_points import points
from helpers.pages import numbers_of, read_page

from bnrecal.reports.figure1.page import write_figure1_page
from bnrecal.reports.figure1.picture import CURVES, write_figure


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
    assert "12 min 30 s" in page.text
    told = " ".join(page.text.split())
    assert "found by the search: better at 12 of 12 operating points, worse at 0, too close to tell at 0." in told
    assert "as many evaluations: better at 0 of 12 operating points, worse at 0, too close to tell at 12." in told
    assert "(c) GoogLeNet: 4T with some 1T" in page.text


def test_a_figure_of_older_cells_says_that_their_time_is_not_known(tmp_path: Path) -> None:
    made = [{key: value for key, value in p.items() if key not in ("seconds", "device")} for p in points()]
    write_figure(made, tmp_path)
    write_figure1_page(made, tmp_path)
    assert "not noted" in read_page(tmp_path / "report.html").text
