"""The process whose forks the tests' commands are."""

from pathlib import Path

import pytest
from helpers import fork_server


def test_a_server_that_fails_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bnrecal.py").write_text("raise ImportError('broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv(fork_server.SOCKET, raising=False)
    with pytest.raises(AssertionError, match="the server of forks ended"):
        fork_server.server.__wrapped__()
