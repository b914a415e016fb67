import sys

import pandas as pd
import pytest

from bnrecal.reports.common.document import Block, Entry, Heading, to_markdown
from bnrecal.reports.common.terminal import for_terminal, print_document

TABLE = pd.DataFrame(
    {
        "Source": ["PyTorch", "MLPerf"],
        "Model": ["ResNet-18", "4"],
        "FP32": [Entry("84.36"), Entry("9.18")],
        "4T w/o": [Entry("80.94", "(-3.42)"), Entry("85.82", "(-3.36), 26 %")],
    }
)
WORDS = "Words that go on for long enough to be wrapped on a narrow terminal, NB-SMT among them."
BLOCKS: list[Block] = [Heading("Title"), WORDS, TABLE, ("a note", "another")]


def test_markdown_has_the_whole_document() -> None:
    assert (
        to_markdown(BLOCKS)
        == f"""# Title

{WORDS}

| Source | Model | FP32 | 4T w/o |
|---|---|---|---|
| PyTorch | ResNet-18 | 84.36 | 80.94 (-3.42) |
| MLPerf | 4 | 9.18 | 85.82 (-3.36), 26 % |

- a note
- another
"""
    )


def test_columns_are_aligned_words_left_and_numbers_right() -> None:
    lines = for_terminal(BLOCKS, 100).splitlines()
    assert lines[0] == "Title"
    assert lines[4:8] == [
        "Source   Model       FP32               4T w/o",
        "----------------------------------------------",
        "PyTorch  ResNet-18  84.36        80.94 (-3.42)",
        "MLPerf   4           9.18  85.82 (-3.36), 26 %",
    ]
    assert lines[-2:] == ["- a note", "- another"]


def test_a_narrow_terminal_puts_brackets_below() -> None:
    lines = for_terminal(BLOCKS, 44).splitlines()
    assert max(map(len, lines)) <= 44
    start = next(place for place, line in enumerate(lines) if line.startswith("PyTorch"))
    assert lines[start : start + 4] == [
        "PyTorch  ResNet-18  84.36          80.94",
        "                                 (-3.42)",
        "MLPerf   4           9.18          85.82",
        "                           (-3.36), 26 %",
    ]
    assert any(line.startswith("NB-SMT") or " NB-SMT" in line for line in lines)  # not torn at the hyphen
    first = next(place for place, line in enumerate(lines) if line.startswith("Words that"))
    assert " ".join(lines[first : first + 3]) == WORDS  # nothing is put before the lines of a paragraph


@pytest.mark.parametrize("width", [46, 45])
def test_a_table_is_folded_only_where_it_does_not_fit(width: int) -> None:
    lines = for_terminal([TABLE], width).splitlines()
    assert len(lines) == (4 if width == 46 else 6)


def test_a_long_note_goes_on_below_its_words() -> None:
    assert for_terminal([("one two",)], 7) == "- one\n  two"


@pytest.mark.parametrize(("terminal", "kept"), [(True, False), (False, True)])
def test_files_and_pipes_get_the_markdown_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, kept: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_document(BLOCKS)
    assert ("|---|" in capsys.readouterr().out) == kept
