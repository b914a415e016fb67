import pytest
from helpers.table1_cells import ROWS, cells_of

from bnrecal.reports.table1.columns import Row
from bnrecal.reports.table1.latex import latex
from bnrecal.reports.table1.numbers import make_tables


def text_of(*rows: Row) -> str:
    cells = [cell for row in rows for cell in cells_of(row)]
    return latex(make_tables(cells, rows).wide)


def test_the_latex_table_has_the_papers_layout() -> None:
    lines = text_of(*ROWS).splitlines()
    assert lines[1] == r"\begin{tabular}{llrrrrrr}"
    assert lines[3].endswith(r"\multicolumn{2}{c}{2T} & \multicolumn{2}{c}{4T} \\")
    assert lines[4] == r"Source & Model & FP32 & A8W8 & w/o & w/ & w/o & w/ \\"
    assert lines[-1] == r"\end{tabular}"
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert sum(line == rule for line in lines) == 1
    assert lines[6] == (
        r"PyTorch & ResNet-18 & 70.00 & 69.00 & 68.00 ($-2.00$) & 68.50 ($-1.50$) "
        r"& 60.30 ($-9.70$) & 66.20 ($-3.80$) \\"
    )
    assert lines[7].startswith(r"my\_own & A<b>\&\_1\% & 70.00")


def test_each_source_is_named_once() -> None:
    lines = text_of(Row("MLPerf", "one", "a"), Row("MLPerf", "two", "b")).splitlines()
    assert lines[6].startswith("MLPerf & one &")
    assert lines[7].startswith(" & two &")


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("GoogLeNet†", r"GoogLeNet\textsuperscript{\dag} &"),
        ("Net‡", r"Net\textsuperscript{\ddag} &"),
        ("a\\b", r"a\textbackslash b &"),
    ],
)
def test_names_are_made_harmless_to_latex(label: str, shown: str) -> None:
    assert shown in text_of(Row("mine", label, "net"))
