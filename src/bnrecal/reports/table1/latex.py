"""Table 1 for LaTeX with booktabs: `table1.tex`."""

from pathlib import Path

import pandas as pd

from bnrecal.files import atomic_path
from bnrecal.reports.table1.columns import A8W8, FLOAT32, Column, shown

SIGNS = {"†": r"\textsuperscript{\dag}", "‡": r"\textsuperscript{\ddag}"}  # the paper's, raised


def write_latex(wide: pd.DataFrame, out: Path) -> None:
    """Write `table1.tex` into `out`, of a table in the layout of `table1.csv`."""
    with atomic_path(out / "table1.tex") as path:
        path.write_text(latex(wide))


def latex(wide: pd.DataFrame) -> str:
    """The table in the paper's layout: top-1 in %, in brackets the difference to FP32."""
    names = [("", "Source"), ("", "Model")]
    table = pd.DataFrame({name: wide[name[1].lower()] for name in names})
    table.loc[table[names[0]].duplicated(), names[0]] = ""  # each source once, as the paper has it
    for column in shown():
        table[_heading(column)] = _values(wide, column)
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    style = table.style.hide(axis="index").format(escape="latex", subset=names)
    text: str = style.to_latex(hrules=True, column_format="ll" + "r" * len(shown()), multicol_align="c")
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    return f"% needs \\usepackage{{booktabs}}\n{text}"


def _heading(column: Column) -> tuple[str, str]:
    """The two lines above a column."""
    if column in (FLOAT32, A8W8):
        return "", column.label
    return column.group, "w/" if column.recal else "w/o"


def _values(wide: pd.DataFrame, column: Column) -> list[str]:
    values = wide[column.key]
    if column in (FLOAT32, A8W8):
        return [f"{value:.2f}" for value in values]
    differences = values - wide[FLOAT32.key]
    return [f"{value:.2f} (${lost:+.2f}$)" for value, lost in zip(values, differences, strict=True)]
