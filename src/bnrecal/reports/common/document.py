"""Words and tables in their order, to be shown as Markdown or set for a terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd


@dataclass(frozen=True)
class Entry:
    """A number in a table.

    Attributes:
        main: the number.
        aside: what stands behind it in brackets; on a narrow terminal below it.
    """

    main: str
    aside: str = ""

    def __str__(self) -> str:
        return f"{self.main} {self.aside}".rstrip()


@dataclass(frozen=True)
class Heading:
    """The title of a document."""

    text: str


# A paragraph of sentences, whose line breaks are kept in Markdown's source alone, is a str; a list of remarks a tuple.
# Cells of a frame are words (str) or numbers (Entry), column by column.
Block: TypeAlias = "Heading | str | tuple[str, ...] | pd.DataFrame"


def to_markdown(blocks: Sequence[Block]) -> str:
    """The document as Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"# {block.text}"
    if isinstance(block, str):
        return block
    if isinstance(block, tuple):
        return "\n".join(f"- {item}" for item in block)
    lines = [_line(block.columns), "|" + "---|" * len(block.columns)]
    return "\n".join([*lines, *map(_line, block.to_numpy())])


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
