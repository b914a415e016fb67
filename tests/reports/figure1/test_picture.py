import pandas as pd

from bnrecal.reports.figure1.picture import CURVES, draw


def points() -> pd.DataFrame:
    rows = []
    for panel, labels in (("a", ["ResNet-18", "ResNet-18 P40"]), ("b", ["ResNet-50"]), ("c", ["GoogLeNet"])):
        for label in labels:
            for pruned, method, recal in CURVES:
                if pruned == ("P40" in label):
                    for speedup in (2.0, 3.0, 4.0):
                        own = {"panel": panel, "label": label, "method": method, "recal": recal, "speedup": speedup}
                        same = {"drop_stderr": 0.1, "slow_threads": 2, "collisions_4t": 0.5}
                        rows.append({**own, **same, "drop": speedup - recal})
    return pd.DataFrame(rows)


def test_the_three_panels_are_labelled_and_share_one_legend() -> None:
    figure = draw(points())
    assert [axis.get_title() for axis in figure.axes] == [
        "(a) ResNet-18: 4T with some 2T",
        "(b) ResNet-50: 4T with some 2T",
        "(c) GoogLeNet: 4T with some 2T",
    ]
    assert all(axis.get_xlabel() == "Speedup over one thread (×)" for axis in figure.axes)
    assert figure.axes[0].texts[0].get_text() == "collisions at 4T: 50 % dense, 50 % pruned"
    assert figure.axes[1].texts[0].get_text() == "collisions at 4T: 50 % of steps"
    assert "percentage points" in figure.axes[0].get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [name for name, _ in CURVES.values()]
    assert len({(look.marker, look.line, look.filled) for _, look in CURVES.values()}) == len(CURVES)
