"""The commands as a user runs them: processes, exit codes, what they print and leave."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from helpers.command_line import CUSTOM, SMALL, bnrecal, run


def results(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("result.json"))]


def test_a_run_prints_a_summary_and_leaves_its_files(tmp_path: Path) -> None:
    output = bnrecal(*CUSTOM, "recal=true", "save_checkpoint=true", folder=tmp_path)
    for words in ("4 threads with recalibration", "float32", "A8W8", "gain", "speedup", "depthwise: 1 thread"):
        assert words in output
    (folder,) = [path.parent for path in tmp_path.rglob("result.json")]
    assert {"layers.csv", "batchnorm.csv", "checkpoint.pth"} <= {path.name for path in folder.iterdir()}
    assert str(folder.relative_to(tmp_path)) in output


def test_the_paper_command_as_written_in_the_readme(tmp_path: Path) -> None:
    output = bnrecal("model=resnet18", "smt.threads=4", "recal=true", *SMALL, folder=tmp_path)
    assert "resnet18 on glyphs, 4 threads with recalibration, 60 images" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=resnet19"], "Could not find 'model/resnet19' Available options in 'model': custom densenet121"),
        (["recal"], "recal is no command: choose one of table1, figure1"),
        (["recal=maybe"], "Error merging override recal=maybe: Value 'maybe' is not a valid bool"),
        (["data.val_images=-5"], "data.val_images=-5: must be at least 1"),
        (["batch_size=100000"], "batch_size=100000 is more than the"),
        (["model.checkpoint=/nowhere.pth"], "no checkpoint at /nowhere.pth"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.startswith("bnrecal: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("result.json"))


def test_the_traceback_is_there_for_who_wants_it(tmp_path: Path) -> None:
    done = run("smt.threads=3", folder=tmp_path, env={"HYDRA_FULL_ERROR": "1"})
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_cuda_device_that_is_not_there(tmp_path: Path) -> None:
    done = run(*CUSTOM, "device=cuda", folder=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode != 0
    assert done.stderr.startswith("bnrecal: device=cuda: this machine has no usable CUDA device; choose")


def test_a_sweep_keeps_its_good_cells_reports_the_bad_and_resumes(tmp_path: Path) -> None:
    sweep = ["-m", *CUSTOM, "recal=true,false", "calibration.images=40,50000"]
    done = run(*sweep, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("failed: calibration asks for 50000 images") == 2
    assert len(results(tmp_path)) == 2
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}

    again = run(*sweep, folder=tmp_path)
    assert again.stdout.count("(finished earlier)") == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == stamps

    merged = bnrecal("merge", "outputs/sweep", "--out", "all.csv", folder=tmp_path)
    assert merged == "2 results written to all.csv\n"
    table = pd.read_csv(tmp_path / "all.csv")
    assert table[["threads", "recal"]].to_numpy().tolist() == [[4, False], [4, True]]


def test_a_killed_sweep_ends_like_one_that_was_not(tmp_path: Path) -> None:
    sweep = ["-m", *CUSTOM, "smt.threads=1,2,4"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    command = [sys.executable, "-m", "bnrecal", *sweep]
    with subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait_for(lambda: len(results(killed)) >= 1, process)
        process.send_signal(signal.SIGKILL)
    measured = {path: path.stat().st_mtime_ns for path in killed.rglob("result.json")}
    assert 1 <= len(measured) < 3
    bnrecal(*sweep, folder=killed)
    # at most the per-layer tables of the cell that was killed were still missing: no accuracy is measured again
    assert {path: path.stat().st_mtime_ns for path in measured} == measured
    bnrecal(*sweep, folder=whole)
    for one, other in zip(results(killed), results(whole), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_ctrl_c_ends_at_once_and_leaves_no_half_file(tmp_path: Path) -> None:
    # where the tests run in the background, SIGINT is ignored, and children would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "bnrecal", "-m", *CUSTOM, "smt.threads=2,4", "seed=0,1,2,3,4,5"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        _wait_for(lambda: len(results(tmp_path)) >= 1, process)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = process.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert errors.strip().endswith("bnrecal: interrupted; what was finished is kept")
    assert results(tmp_path)
    assert not list(tmp_path.rglob(".*.json"))


def _wait_for(condition: object, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the command ended early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_table_names_folders_without_results(tmp_path: Path) -> None:
    done = run("merge", str(tmp_path), folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.startswith(f"bnrecal: {tmp_path} holds no result.json")


POLICY = """
from bnrecal.nbsmt.policies.custom import CustomPolicy


def product(a: int, b: int, active: int) -> int:
    bits = 2 * (active - 1)
    return a * (b >> bits << bits)


POLICY = CustomPolicy("weights lose two bits for every other thread", product)
"""


def test_a_policy_from_a_file_beside_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY)
    command = [*CUSTOM, "smt.policy=mine:POLICY", "smt.threads=4"]
    bnrecal(*command, "hydra.run.dir=one", folder=tmp_path)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["policy"] == "mine:POLICY"
    assert (tmp_path / "one" / "layers.csv").is_file()
    (tmp_path / "mine.py").write_text(POLICY.replace("a * (b", "(a + 1) * (b"))
    done = run(*command, folder=tmp_path)
    assert done.returncode == 1
    assert "smt.policy=mine:POLICY: product(a=0, b=-128, active=1) is -128: one active thread" in done.stderr
    assert "Traceback" not in done.stderr
