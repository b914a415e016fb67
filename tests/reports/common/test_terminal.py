import sys

import pytest

from bnrecal.reports.common.terminal import for_terminal, print_markdown

TEXT = """# Title

Words that go on for long enough to be wrapped on a narrow terminal, NB-SMT among them.

| Source | Model | FP32 | 4T w/o |
|---|---|---|---|
| PyTorch | ResNet-18 | 84.36 | 80.94 (-3.42) |
| MLPerf | A | 9.18 | 85.82 (-3.36, 26 %) |

- a note
"""


def test_columns_are_aligned_words_left_and_numbers_right() -> None:
    lines = for_terminal(TEXT, 100).splitlines()
    assert lines[0] == "Title"
    table = lines[4:8]
    assert table == [
        "Source   Model       FP32               4T w/o",
        "----------------------------------------------",
        "PyTorch  ResNet-18  84.36        80.94 (-3.42)",
        "MLPerf   A           9.18  85.82 (-3.36, 26 %)",
    ]
    assert lines[-1] == "- a note"


def test_a_narrow_terminal_puts_brackets_below() -> None:
    lines = for_terminal(TEXT, 44).splitlines()
    assert max(map(len, lines)) <= 44
    start = lines.index(next(line for line in lines if line.startswith("PyTorch")))
    assert lines[start : start + 4] == [
        "PyTorch  ResNet-18  84.36          80.94",
        "                                 (-3.42)",
        "MLPerf   A           9.18          85.82",
        "                           (-3.36, 26 %)",
    ]
    assert any(line.startswith("NB-SMT") or " NB-SMT" in line for line in lines)  # not torn at the hyphen


@pytest.mark.parametrize(("terminal", "kept"), [(True, False), (False, True)])
def test_files_and_pipes_get_the_markdown_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, kept: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_markdown(TEXT)
    assert ("|---|" in capsys.readouterr().out) == kept
