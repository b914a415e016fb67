"""What a notebook shows in the place of objects: the numbers that count, with every text escaped."""

import re

import numpy as np
import pandas as pd

from bnrecal.api import Score
from bnrecal.display import LayerTable, preformatted
from bnrecal.evaluation.accuracy import Correctness

SCRIPT = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def cells(html: str) -> list[str]:
    """The text of each cell of a table of HTML, row by row."""
    return re.findall("<t[hd]>(.*?)</t[hd]>", html)


def test_a_score_shows_its_numbers() -> None:
    score = Score(Correctness(np.arange(1200) < 900, np.arange(1200) < 1188))
    shown = cells(score._repr_html_())
    assert shown == ["top-1", "75.00 % ± 1.25", "top-5", "99.00 %", "images", "1,200"]


def test_a_layer_table_shows_shares_in_percent_and_nothing_where_nothing_was_counted() -> None:
    table = LayerTable(
        [
            {"name": SCRIPT, "threads": 4, "range": 1.23456, "steps": 12345, "weight_sparsity": 0.25,
             "activation_sparsity": 0.5, "collisions": 0.125, "relative_mse": 0.001},
            {"name": "signed", "threads": 1, "range": 2.0},
        ]
    )  # fmt: skip
    html = table._repr_html_()
    assert "<script>" not in html
    assert cells(html) == [
        "layer", "threads", "range", "zero weights", "zero activations", "steps that collide", "relative error",
        ESCAPED, "4", "1.23", "25.00 %", "50.00 %", "12.50 %", "0.10 %",
        "signed", "1", "2", "-", "-", "-", "-",
    ]  # fmt: skip


def test_parts_of_a_layer_table_are_plain_data_frames() -> None:
    table = LayerTable([{"name": "conv", "threads": 4, "range": 1.0, "mse": 0.5}])
    assert cells(table._repr_html_()) == ["layer", "threads", "range", "conv", "4", "1"]
    assert type(table[["name", "mse"]]) is pd.DataFrame


def test_preformatted_text_is_escaped() -> None:
    assert preformatted("a < b\n & c") == "<pre>a &lt; b\n &amp; c</pre>"
