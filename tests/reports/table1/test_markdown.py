"""Table 1 in words."""

import numpy as np
from helpers.table1_cells import ROWS, cells_of

from bnrecal.reports.common.document import to_markdown
from bnrecal.reports.table1.columns import Row
from bnrecal.reports.table1.gains import gains
from bnrecal.reports.table1.markdown import document
from bnrecal.reports.table1.numbers import make_tables
from bnrecal.reports.table1.records import CellRecord

NET = Row("PyTorch", "Net", "net")
FIRST = {"a8w8": 69.0, "a8w8_w": 69.2, "2t_wo": 68.0, "2t_w": 68.6, "4t_wo": 60.8, "4t_w": 59.8}
SECOND = {**FIRST, "4t_wo": 61.2, "4t_w": 60.0}


def text_of(cells: list[CellRecord], rows: list[Row]) -> str:
    return to_markdown(document(make_tables(cells, rows)))


def test_levels_have_their_spread_over_seeds_and_their_difference_to_float32() -> None:
    text = text_of(cells_of(NET, FIRST) + cells_of(NET, SECOND, seed=1), [NET])
    assert "2 seeds" in text
    assert f"| 61.00 ± {np.std([60.8, 61.2], ddof=1):.2f} (-9.00) |" in text
    assert "| PyTorch | Net | 70.00 ± 0.00 | 69.00 ± 0.00 |" in text


def test_a_row_that_does_not_gain_is_named() -> None:
    cells = cells_of(NET, FIRST) + cells_of(NET, SECOND, seed=1)
    found = next(one for one in gains(cells) if one.pair.threads == 4)
    sure = "significantly" if found.gain.p < 0.05 else "not significantly"
    sentence = f"does not gain by recalibration at 4T: -1.10 points ({sure}, p = {found.gain.p:.2g})"
    assert f"- PyTorch Net {sentence}" in text_of(cells, [NET])
    assert "at 2T" not in text_of(cells, [NET])


def test_gains_and_averages_of_every_pair_stand_under_their_own_heading() -> None:
    text = text_of([*cells_of(ROWS[1]), *cells_of(ROWS[0])], ROWS)
    assert "| Source | Model | FP32 | A8W8 | 2T w/o | 2T w/ | 4T w/o | 4T w/ |" in text
    lines = text.splitlines()
    start = lines.index("| Source | Model | A8W8 | 2T | 2T net | 4T | 4T net |")
    first = lines[start + 2]
    two = "+0.50 (p = 0.062) | +0.40 (p = 0.22), -26 to 93 %"
    assert first.startswith(f"| PyTorch | ResNet-18 | +0.10 (p = 1) | {two} | +5.90")
    assert lines[start + 3].startswith("| my_own |")
    assert (
        "- Averaged over the rows, 2T without recalibration loses 2.00 points, 4T 9.70; "
        "recalibration gains +5.90 at 4T." in lines
    )


def test_every_spared_layer_is_named_with_its_seeds() -> None:
    one = Row("PyTorch", "Net†", "n", spare_worst=True)
    other = Row("PyTorch", "Other†", "o", spare_worst=True)
    cells = []
    for seed in (0, 1):
        for row, layer in ((one, "layer.a"), (other, f"layer.{seed}")):
            for cell in cells_of(row, seed=seed):
                exceptions = {layer: {"kind": "smt.layers", "threads": 1}, "dw": {"kind": "depthwise", "threads": 1}}
                cells.append({**cell, "layer_exceptions": exceptions})
    text = text_of(cells, [one, other])  # type: ignore[arg-type]
    assert "- PyTorch Net† spares layer.a (seed 0, 1).\n" in text
    assert "- PyTorch Other† spares layer.0 (seed 0), layer.1 (seed 1).\n" in text


def test_the_paper_stands_beside_its_rows_on_imagenet() -> None:
    text = text_of(cells_of(ROWS[0], data="imagenet"), ROWS[:1])
    assert "no verdict on 1000 images" in text
    assert "| Source | Model | FP32 | A8W8 | 2T w/o | 2T w/ | 4T w/o | 4T w/ | 2T gain | 4T gain |" in text
    assert "| PyTorch | ResNet-18 | 69.76: +0.24 ± 1.45 |" in text
    assert "None of these rows is in the paper." in text_of(cells_of(ROWS[1], data="imagenet"), ROWS[1:])
