"""The process whose forks the tests' commands are."""

import os
from pathlib import Path

import pytest
from helpers import fork_server


def test_a_server_that_fails_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "PRELOADED", ("absent",))
    path = tmp_path / "server" / "forks"
    path.parent.mkdir()
    with pytest.raises(ModuleNotFoundError, match="absent"):
        fork_server.serve(path, os.getpid())
    assert not path.parent.exists()
    with pytest.raises(AssertionError, match="failed while it started"):
        fork_server.wait_for(path)
