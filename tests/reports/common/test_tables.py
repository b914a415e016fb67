from base64 import b64decode
from pathlib import Path

import pandas as pd

from bnrecal.reports.common.tables import printed, write_table

TABLE = pd.DataFrame(
    {
        "name": ["a, b", None],
        "count": [1, 2],
        "share": [1 / 3, None],
        "mixed": [True, None],
        "sure": [True, False],
    }
)


def test_numbers_are_text_once_and_what_is_missing_is_empty() -> None:
    table = printed("x.csv", TABLE, ".4f")
    assert table.header == list(TABLE.columns)
    assert table.rows == [["a, b", "1", "0.3333", "True", "True"], ["", "2", "", "", "False"]]


def test_the_file_is_the_one_that_pandas_would_write_and_that_a_page_offers(tmp_path: Path) -> None:
    table = printed("x.csv", TABLE, ".6g")
    write_table(table, tmp_path)
    assert (tmp_path / "x.csv").read_text() == TABLE.to_csv(index=False, float_format="%.6g")
    assert b64decode(table.data.partition(",")[2]) == (tmp_path / "x.csv").read_bytes()
