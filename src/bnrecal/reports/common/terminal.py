"""Markdown with tables, set for a terminal: columns aligned, and folded where the terminal is narrow."""

import re
import shutil
import sys
import textwrap
from itertools import groupby, zip_longest

GAP = "  "
_RULE = re.compile(r"\|?[\s:|-]+\|?")  # the line under a table's header


def print_markdown(markdown: str) -> None:
    """Print it aligned on a terminal, as it is into a file or a pipe."""
    shown = for_terminal(markdown, shutil.get_terminal_size().columns) if sys.stdout.isatty() else markdown
    print(shown)


def for_terminal(markdown: str, width: int) -> str:
    """The same text with aligned tables; other lines are wrapped to `width`, headings lose their signs.

    A table that is too wide puts what its cells hold in brackets on a second line.
    """
    parts = []
    for is_table, group in groupby(markdown.splitlines(), key=lambda line: line.startswith("|")):
        lines = list(group)
        parts += _table(lines, width) if is_table else [_text(line, width) for line in lines]
    return "\n".join(parts)


def _text(line: str, width: int) -> str:
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line.lstrip("# "), width, subsequent_indent=indent, break_on_hyphens=False) if line else ""


def _table(lines: list[str], width: int) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not _RULE.fullmatch(line)]
    shown = [[row] for row in rows] if _needed(rows) <= width else [_folded(row) for row in rows]
    sizes = [max(len(cell) for cell in column) for column in zip(*(r for g in shown for r in g), strict=True)]
    head, *body = [[_aligned(row, sizes) for row in group] for group in shown]
    return [*head, "-" * (sum(sizes) + len(GAP) * (len(sizes) - 1)), *(line for group in body for line in group)]


def _needed(rows: list[list[str]]) -> int:
    return sum(max(len(cell) for cell in column) + len(GAP) for column in zip(*rows, strict=True)) - len(GAP)


def _folded(row: list[str]) -> list[list[str]]:
    """A row as two: before the bracket, and the bracket."""
    split = [cell.replace(" (", "\n(", 1).split("\n") for cell in row]
    return [list(line) for line in zip_longest(*split, fillvalue="")]


def _aligned(row: list[str], sizes: list[int]) -> str:
    """Words to the left, numbers to the right."""
    first = next((place for place, cell in enumerate(row) if re.match(r"[(+-]?\d", cell)), 2)
    cells = [
        cell.ljust(s) if place < min(first, 2) else cell.rjust(s)
        for place, (cell, s) in enumerate(zip(row, sizes, strict=True))
    ]
    return GAP.join(cells).rstrip()
