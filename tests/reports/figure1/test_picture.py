from helpers.figure1_points import point, points

from bnrecal.reports.figure1.curves import CURVES, curve_names
from bnrecal.reports.figure1.picture import draw


def test_the_three_panels_are_labelled_and_share_one_legend() -> None:
    made = points()
    figure = draw(made)
    assert [axis.get_title() for axis in figure.axes] == [
        "(a) ResNet-18: 4T with some 2T",
        "(b) ResNet-50: 4T with some 2T",
        "(c) GoogLeNet: 4T with some 1T",
    ]
    assert all(axis.get_xlabel() == "Speedup over one thread (×)" for axis in figure.axes)
    assert figure.axes[0].texts[0].get_text() == "collisions at 4T: 50 % dense, 50 % pruned"
    assert figure.axes[1].texts[0].get_text() == "collisions at 4T: 50 % of steps"
    assert "percentage points" in figure.axes[0].get_ylabel()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "dense, w/o recalibration",
        "dense, w/ recalibration",
        "40 % pruned, w/o recalibration",
        "40 % pruned, w/ recalibration",
        "dense, w/ recalibration, best of random orders",
        "40 % pruned, w/ recalibration, best of random orders",
        "dense, w/ recalibration, searched threads",
        "40 % pruned, w/ recalibration, searched threads",
    ]
    looks = {(curve.look.marker, curve.look.line, curve.look.filled) for curve in CURVES}
    assert len(looks) == len(CURVES)
    assert len({curve.style for curve in CURVES}) == len(CURVES)


def test_a_network_is_pruned_by_its_settings_and_not_by_its_label() -> None:
    dense = point("a", "Chip P40", 0, 2, CURVES[0], 2.0)
    pruned = point("a", "Net", 60, 2, CURVES[2], 2.0)
    (axis,) = draw([pruned, dense]).axes
    assert axis.get_title() == "(a) Chip P40: 4T with some 2T"
    assert axis.texts[0].get_text() == "collisions at 4T: 50 % dense, 50 % pruned"
    assert curve_names([[pruned], [dense]]) == ["dense, w/o recalibration", "60 % pruned, w/o recalibration"]
