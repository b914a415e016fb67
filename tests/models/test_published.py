"""Published weights: kept in torch's cache, checked by their hash, and reported in one line where they are missing."""

import hashlib
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bnrecal.errors import BnrecalError
from bnrecal.models.published import Published, fetch, git_blob_hash

CONTENT = b"weights" * 1000


@pytest.fixture(autouse=True)
def _own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def _published(url: str = "https://example.invalid/w-1.pth") -> Published:
    return Published(url, "w-1.pth", hashlib.sha256(CONTENT).hexdigest()[:8])


def test_a_file_in_the_cache_is_taken_without_the_network(tmp_path: Path) -> None:
    published = _published()
    assert published.path == tmp_path / "torch" / "hub" / "checkpoints" / "w-1.pth"
    published.path.parent.mkdir(parents=True)
    published.path.write_bytes(CONTENT)
    assert fetch(published) == published.path


def test_a_damaged_file_in_the_cache_is_refused() -> None:
    published = _published()
    published.path.parent.mkdir(parents=True)
    published.path.write_bytes(CONTENT[:-1])
    with pytest.raises(BnrecalError, match=r"w-1\.pth is damaged or another file: delete it"):
        fetch(published)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server on this machine, which gives out what lies in `tmp_path`."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_download_is_kept_and_its_progress_shown(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.pth").write_bytes(CONTENT)
    published = _published(f"{server}/w.pth")
    assert fetch(published).read_bytes() == CONTENT
    assert "100%" in capsys.readouterr().err
    (tmp_path / "w.pth").unlink()
    assert fetch(published).read_bytes() == CONTENT


def test_a_download_of_another_content_leaves_nothing(server: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"<html>log in</html>")
    published = _published(f"{server}/w.pth")
    with pytest.raises(BnrecalError, match="is not the published file: its sha256 differs"):
        fetch(published)
    assert not list(published.path.parent.iterdir())


def test_a_file_that_is_gone_is_one_line(server: str) -> None:
    with pytest.raises(BnrecalError, match=r"cannot download http://.*404.*: put it at .*w-1\.pth or give"):
        fetch(_published(f"{server}/w.pth"))


def test_offline_it_says_which_file_to_put_where() -> None:
    published = _published("http://127.0.0.1:9/w.pth")  # where nobody listens
    with pytest.raises(BnrecalError) as caught:
        fetch(published)
    message = str(caught.value)
    assert published.url in message
    assert f"put it at {published.path} or give model.checkpoint=PATH" in message
    assert "\n" not in message
    assert not list(published.path.parent.iterdir())


def test_the_blob_hash_is_gits(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    try:
        git = subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not installed")
    assert git_blob_hash(path) == git.stdout.strip()
