from pathlib import Path

from helpers.figure1_points import points
from helpers.pages import numbers_of, read_page

from bnrecal.commands.figure1 import write_figure
from bnrecal.reports.figure1.curves import CURVES
from bnrecal.reports.figure1.page import content, fact


def test_the_figures_page_holds_every_point(tmp_path: Path) -> None:
    made = points()
    write_figure(made, tmp_path)
    page = read_page(tmp_path / "report.html")
    missing = [field for field in numbers_of(tmp_path / "figure1.csv") if field not in page.text]
    assert missing == []
    assert page.source.count('<g class="mark" tabindex="0">') == len(made)
    for curve in CURVES:
        assert curve.name(curve.of(made)) in page.text
    assert "12 min 30 s" in page.text
    reported = " ".join(page.text.split())
    assert "found by the search: better at 12 of 12 operating points, worse at 0, too close to tell at 0." in reported
    for label in ("ResNet-18", "ResNet-18 P40", "GoogLeNet"):
        spent = "the search measured 78 choices (those of single layers among them) over 50,688 images"
        assert f"{label}: on training images {spent}, random orders 50 over 51,200." in reported
    assert "the paper leaves open which layers it slowed" in reported
    assert "on as many images: better at 0 of 12 operating points, worse at 0, too close to tell at 12." in reported
    assert "(c) GoogLeNet: 4T with some 1T" in page.text


def test_a_difference_counts_from_two_standard_errors_and_a_certain_one_of_nothing_does_not() -> None:
    made = [point for point in points() if point["method"] != "random"]
    planned = [point for point in made if point["method"] == "plan"]
    planned[0]["above_highest_error"] = -0.26
    planned[1]["above_highest_error"] = -0.24
    planned[2]["above_highest_error"] = 0.0
    planned[2]["above_highest_error_stderr"] = 0.0
    (beside,) = content(made).others
    assert (beside.points, beside.better, beside.worse) == (12, 9, 1)


def test_the_fact_of_a_network_is_its_fastest_point() -> None:
    own = [point for point in points() if point["label"] == "ResNet-50"]
    found = fact(own)
    assert (found.speedup, found.wo, found.w, found.collisions) == (4.0, -4.0, -3.0, 50.0)


def test_the_table_holds_all_that_is_known_of_a_point_but_how_it_is_drawn(tmp_path: Path) -> None:
    made = points()[:2]
    write_figure(made, tmp_path)
    header, first, _ = (tmp_path / "figure1.csv").read_text().splitlines()
    assert header.split(",") == [key for key in made[0] if key != "pruned"]
    assert first.startswith("a,ResNet-18,A,2,net,glyphs,highest_error w/o,highest_error,False,none,2,2,4321,2,")
