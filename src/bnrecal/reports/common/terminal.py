"""A document set for a terminal: columns aligned, and folded where the terminal is narrow."""

import shutil
import sys
import textwrap
from collections.abc import Sequence

import pandas as pd

from bnrecal.reports.common.document import Block, Entry, Heading, to_markdown

GAP = "  "


def print_document(blocks: Sequence[Block]) -> None:
    """Print a document aligned on a terminal, as Markdown into a file or a pipe."""
    if sys.stdout.isatty():
        print(for_terminal(blocks, shutil.get_terminal_size().columns))
    else:
        print(to_markdown(blocks))


def for_terminal(blocks: Sequence[Block], width: int) -> str:
    """A document with aligned tables and text wrapped to `width` characters.

    A table that is too wide puts what its numbers have in brackets on a second line.
    """
    return "\n\n".join(_block(block, width) for block in blocks)


def _block(block: Block, width: int) -> str:
    if isinstance(block, tuple):
        return "\n".join(_wrapped(f"- {item}", width, indent="  ") for item in block)
    if isinstance(block, Heading):
        return _wrapped(block.text, width)
    if isinstance(block, str):
        return _wrapped(block, width)
    return "\n".join(_table(block, width))


def _wrapped(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _table(table: pd.DataFrame, width: int) -> list[str]:
    rows: list[list[object]] = table.to_numpy().tolist()
    whole = _aligned(table, rows)
    if len(whole[1]) <= width:
        return whole
    folded = []
    for row in rows:
        folded.append([cell.main if isinstance(cell, Entry) else cell for cell in row])
        folded.append([cell.aside if isinstance(cell, Entry) else "" for cell in row])
    return _aligned(table, folded)


def _aligned(table: pd.DataFrame, rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table: header, rule and rows; words to the left, numbers to the right."""
    columns = []
    for place, name in enumerate(table.columns):
        cells = [str(name), *(str(row[place]) for row in rows)]
        size = max(map(len, cells))
        is_number = isinstance(table.iloc[0, place], Entry)
        columns.append([cell.rjust(size) if is_number else cell.ljust(size) for cell in cells])
    header, *body = [GAP.join(line).rstrip() for line in zip(*columns, strict=True)]
    rule = "-" * sum(len(column[0]) + len(GAP) for column in columns)
    return [header, rule.removesuffix("-" * len(GAP)), *body]
