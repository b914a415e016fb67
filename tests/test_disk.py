"""Disks that are full or read-only: one line, and nothing that was finished is lost."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import CUSTOM, run
from helpers.small import config

from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.errors import BnrecalError
from bnrecal.experiment.cell import finished, run_into
from bnrecal.experiment.store import Store
from bnrecal.files import atomic_path, warn_once

IDENTITY = {"settings": {"seed": 0}}


def mount(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MB."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    mount(disk, "size=2m")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(autouse=True)
def _warnings_of_this_test() -> None:
    warn_once.cache_clear()


def fill(disk: Path, but: int) -> None:
    """Leave so many bytes free."""
    usage = os.statvfs(disk)
    (disk / "fill").write_bytes(b"\1" * (usage.f_bavail * usage.f_frsize - but))


def test_a_full_output_folder_keeps_what_was_finished(small_disk: Path) -> None:
    fill(small_disk, but=28 * 1024)
    experiment = config("recal=true", "save_checkpoint=true")
    with pytest.raises(
        BnrecalError, match=r"cannot write .*checkpoint.pth \(No space left on device\); what was finis"
    ):
        run_into(experiment, small_disk / "cell")
    assert {path.name for path in (small_disk / "cell").iterdir()} == {"result.json", "layers.csv", "batchnorm.csv"}
    assert finished(config("recal=true"), small_disk / "cell") is not None
    (small_disk / "fill").unlink()
    run_into(experiment, small_disk / "cell")
    assert finished(experiment, small_disk / "cell") is not None


def test_a_command_on_a_full_disk_ends_in_one_line(small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk, but=0)
    for command, out in (([*CUSTOM], "hydra.run.dir"), (["table1"], "out")):
        done = run(*command, f"{out}={small_disk}/cell", folder=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("bnrecal: ")
        assert done.stderr.count("\n") == 1
        assert done.stderr.endswith("choose another folder\n")


def test_a_command_with_a_full_cache_or_a_read_only_home_says_a_line_about_each_and_measures(
    small_disk: Path, tmp_path: Path
) -> None:
    fill(small_disk, but=0)
    full = run(*CUSTOM, folder=tmp_path, env={"BNRECAL_CACHE": str(small_disk)}, module="helpers.few_glyphs")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    home = {"HOME": str(small_disk), "BNRECAL_CACHE": "", "XDG_CACHE_HOME": ""}
    read_only = run(*CUSTOM, "smt.threads=2", folder=tmp_path, env=home, module="helpers.few_glyphs")
    for done, why in ((full, "No space left on device"), (read_only, "Read-only file system")):
        assert done.returncode == 0
        warnings = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if "WARNING" in line]
        assert ["glyphs cannot be used" in warnings[0], "baselines cannot be written" in warnings[1]] == [True, True]
        assert all(why in line for line in warnings)
        assert len(warnings) == 2
    assert len(list(tmp_path.rglob("result.json"))) == 2


def kept_and_drawn(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said while a cache serves glyphs and pieces, all of which must come out right."""
    source = GlyphSource(seed=3, train_images=700, val_images=700)
    with caplog.at_level(logging.WARNING):
        train = source.images("train")[0]
        val = source.images("val")[0]
        store = Store(Path(os.environ["BNRECAL_CACHE"]) / "baselines", best_effort=True)
        assert store.get("one", IDENTITY, lambda: {"value": 1})["value"] == 1
        assert store.get("two", IDENTITY, lambda: {"value": 2})["value"] == 2
    assert train.shape == val.shape == (700, 3, 32, 32)
    assert not np.array_equal(train, val)
    return [record.getMessage() for record in caplog.records]


def test_a_full_cache_costs_a_warning(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(small_disk))
    fill(small_disk, but=0)
    glyphs, baselines = kept_and_drawn(caplog)
    assert glyphs.startswith(f"{small_disk}/glyphs cannot be used ([Errno 28] No space left")
    assert baselines.startswith(f"{small_disk}/baselines cannot be written ([Errno 28] No space left")
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.name != "fill"]


def test_a_read_only_home_costs_a_warning(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for unset in ("BNRECAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(unset, "")
    monkeypatch.setenv("HOME", str(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    source = GlyphSource(seed=3, train_images=10, val_images=10)
    with caplog.at_level(logging.WARNING):
        assert source.images("train")[0].shape == (10, 3, 32, 32)
    assert (
        caplog.records[0]
        .getMessage()
        .startswith(f"{small_disk}/.cache/bnrecal/glyphs cannot be used ([Errno 30] Read-only file system")
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_leaves_the_old_file_and_one_line(code: int, tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(BnrecalError, match=rf"cannot write .*table.csv \({os.strerror(code)}\)"), atomic_path(target):
        raise OSError(code, os.strerror(code))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.csv", "old")]


def test_trouble_with_another_file_is_not_called_this_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), atomic_path(tmp_path / "table.csv"):
        (tmp_path / "missing").read_text()


def test_a_damaged_glyph_cache_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path))
    before = GlyphSource(val_images=20).images("val")[0].copy()
    (path,) = (tmp_path / "glyphs").iterdir()
    whole = path.read_bytes()
    for content in (b"", b"no array", whole[:-1]):
        path.write_bytes(content)
        assert np.array_equal(GlyphSource(val_images=20).images("val")[0], before)
        assert path.read_bytes() == whole
    assert caplog.text.count("is damaged: drawing the images again") == 3
