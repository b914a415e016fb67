"""Tests of reports are about the paper's columns, whatever others Table 1 has."""

import pytest
from helpers.table1_cells import PAPERS

import bnrecal.reports.table1.columns


@pytest.fixture(autouse=True)
def papers_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Table 1 have the paper's columns alone."""
    monkeypatch.setattr(bnrecal.reports.table1.columns, "COLUMNS", PAPERS)
