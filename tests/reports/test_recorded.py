"""Pages, pictures and tables of made-up results, compared value by value with what they showed when looked at last.

Where they are meant to change: `python scripts/record_golden.py`, and look at the difference of the recorded file.
"""

import json
from typing import Any

import pytest
from helpers.recorded import FILE, REPORTS, report


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_shows_what_was_recorded(recorded: dict[str, Any], name: str) -> None:
    assert report(name) == recorded[name]


def test_nothing_is_recorded_that_no_report_shows(recorded: dict[str, Any]) -> None:
    assert set(recorded) == set(REPORTS)
