"""Cells of every launcher that are finished, damaged or failing."""

from pathlib import Path

from helpers.command_line import CUSTOM, SMALL, bnrecal, run

ONE = ["-m", *CUSTOM, "smt.threads=2"]


def test_a_failed_cell_is_found_whatever_the_clocks_say(tmp_path: Path) -> None:
    """The clock of the process runs an hour ahead of the file server's."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import time\nusual = time.time\ntime.time = lambda: usual() + 3600\n"
    )
    sweep = ["-m", *CUSTOM, "calibration.images=50000", "smt.threads=2,4"]
    done = run(*sweep, folder=tmp_path, env={"PYTHONPATH": _path(tmp_path / "site")})
    assert done.returncode == 1
    assert done.stderr.count("failed: calibration asks for 50000 images") == 2


def _path(first: Path) -> str:
    import os

    return os.pathsep.join([str(first), os.environ["PYTHONPATH"]])


def test_a_damaged_result_is_measured_again(tmp_path: Path) -> None:
    bnrecal(*ONE, folder=tmp_path)
    (path,) = tmp_path.rglob("result.json")
    good = path.read_text()
    for content in ("", "{}", '{"top1": 1', '{"top1": 70.0, "provenance": {}}'):
        path.write_text(content)
        assert "(finished earlier)" not in bnrecal(*ONE, folder=tmp_path), content
        assert path.read_text()[:80] == good[:80]


def test_an_exception_that_nobody_expects_is_one_failed_cell(tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    sweep = ["-m", *SMALL, "model=custom", "model.factory=helpers.troubles:broken_once", "smt.threads=1,2"]
    sweep += [f"model.kwargs={{fuse: {fuse}}}"]
    done = run(*sweep, folder=tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "failed" in line]
    assert "LookupError: a foreign exception" in line
    assert "Traceback" not in done.stderr
    (note,) = tmp_path.rglob("error.txt")
    assert "Traceback" in note.read_text()
    assert str(note.relative_to(tmp_path)) in line
    assert len(list(tmp_path.rglob("result.json"))) == 1
    bnrecal(*sweep, folder=tmp_path)
    assert not list(tmp_path.rglob("error.txt"))


def test_each_invalid_cell_has_a_folder_and_a_message_of_its_own(tmp_path: Path) -> None:
    done = run("-m", *CUSTOM, "smt.threads=3,5", folder=tmp_path)
    assert done.returncode == 1
    assert {line.split("failed: ")[1] for line in done.stderr.splitlines()} == {
        "smt.threads=3: choose one of 1, 2, 4",
        "smt.threads=5: choose one of 1, 2, 4",
    }
    assert len(list(tmp_path.rglob("invalid-*/error.txt"))) == 2


def test_settings_that_give_the_same_cell_run_it_once(tmp_path: Path) -> None:
    output = bnrecal("-m", *CUSTOM, "smt.threads=2", "workers=0,1", folder=tmp_path)
    assert output.count("2 threads without recalibration") == 1
    assert len(list(tmp_path.rglob("result.json"))) == 1
