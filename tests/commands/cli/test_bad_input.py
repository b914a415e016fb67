"""Bad input to every command: one line on stderr that names the value, an exit status other than 0, no traceback."""

import json
import os
import subprocess
import sys

import pytest

EARLY = [  # reported before torch is loaded
    (["smt.threads=3"], "smt.threads=3: choose one of 1, 2, 4"),
    (["smt.thread=4"], "there is no key smt.thread: did you mean threads? choose one of threads, policy,"),
    (["smt.layers.conv1=2"], "there is no key smt.layers.conv1: write smt.layers={conv1: VALUE}"),
    (["smt.policy=S"], "smt.policy=S: choose one of"),
    (["model=resnet19"], "model/resnet19"),
    (["recal=maybe"], "recal=maybe"),
    (["recal"], "recal is no command"),
    (["seed=99999999999999999999"], "seed=99999999999999999999: give a number within 64 bits"),
    (["seed=-1"], "seed=-1: must be at least 0"),
    (["data.val_images=0"], "data.val_images=0: must be at least 1"),
    (["batch_size=0"], "batch_size=0: must be at least 1"),
    (["recalibration.momentum=0"], "recalibration.momentum=0.0: choose a number above 0"),
    (["recalibration.momentum=nan"], "recalibration.momentum=nan"),
    (["recalibration.batch_size=1"], "recalibration.batch_size=1: must be at least 2"),
    (["model.mean=[nan,0.5,0.5]"], "model.mean=nan: give a finite number"),
    (["model.std=[0.5,0.5]"], "model.std=[0.5, 0.5]: give three numbers"),
    (["model.std=[0.5,0.5,0]"], "model.std=[0.5, 0.5, 0.0]: every number must be above 0"),
    (["smt.layers=4"], "smt.layers=4: give a mapping"),
    (["smt.array.rows=0"], "smt.array.rows=0: must be at least 1"),
    (["device=mps"], "device=mps: choose auto, cpu, cuda or cuda:N"),
    (["-m", "hydra.sweep.dir=/dev/null/x", "seed=1,2"], "/dev/null"),
    (["hydra.run.dir=/dev/null/x"], "/dev/null"),
    (["-m", "+launch=joblib", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: must be at least 1"),
    (["-m", "+launch=jobs"], "launch/jobs"),
    (["tabel1"], "tabel1 is no command: did you mean table1?"),
    (["table1", "rows=[]"], "rows=[]: give at least one row"),
    (["threads=4"], "there is no key threads: did you mean smt.threads?"),
    (["table1", "reorder=true"], "there is no key reorder: did you mean smt.reorder?"),
    (["figure1", "reorder=true"], "there is no key reorder: did you mean smt.reorder?"),
    (["table1", "seeds=0"], "seeds=0: must be at least 1"),
    (["table1", "out="], "out= is empty"),
    (["table1", "out=/dev/null/x"], "/dev/null/x"),
    (["figure1", "points=1"], "points=1: must be at least 2"),
    (["figure1", "networks=[]"], "networks=[]: give at least one network"),
    (["plan", "search.tries=0"], "search.tries=0: must be at least 1"),
    (["plan", "search.threads=[3]"], "search.threads=[3]: choose some of 1, 2, 4"),
    (["plan", "speedup=inf"], "speedup=inf: give a finite number"),
    (["plan", "slow=4"], "slow=4: choose 1 or 2"),
    (["prune", "prune.learning_rate=nan"], "prune.learning_rate=nan: give a finite number"),
    (["prune", "prune.step=1e-12"], "prune.step=1e-12"),
    (["prune", "prune.sparsity=1.5"], "prune.sparsity=1.5"),
    (["export", "vectors.outputs=0"], "vectors.outputs=0: must be at least 1"),
    (["bench", "device=mps"], "device=mps"),
    (["bench", "costs=true"], "there is no key costs any more: in a checkout, python scripts/measure_costs.py"),
    (["bench", "batch=0"], "batch=0"),
]
LATE = [
    (["table1", "model=resnet18"], "model=resnet18: table1 measures resnet18, resnet50, googlenet"),
    (["figure1", "model=googlenet"], "model=googlenet: figure1 measures resnet18, resnet18_p40"),
    (["model.checkpoint=/nowhere.pth"], "/nowhere.pth"),
    (["data=imagenet", "data.root=/nowhere"], "data.root=/nowhere"),
    (["merge", "/nowhere"], "/nowhere"),
    (["merge", "a", "--out"], "argument --out: expected one argument (bnrecal merge --help"),
    (["plot", "/nowhere"], "/nowhere"),
    (["plot"], "the following arguments are required: FOLDER (bnrecal plot --help"),
    (["smt.plan=/nowhere.json"], "cannot read the plan /nowhere.json"),
    (["smt.plan=huge.json"], "the plan huge.json gives conv1 inf threads: choose 1, 2 or 4"),
]

Reported = dict[str, tuple[int, str, bool]]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Exit status, stderr and whether torch was loaded, by command line."""
    folder = tmp_path_factory.mktemp("bad")
    early = [arguments for arguments, _ in EARLY]
    late = [arguments for arguments, _ in LATE]
    (folder / "huge.json").write_text('{"layers": {"conv1": 1e999}}')
    (folder / "commands.json").write_text(json.dumps([early, late]))
    done = subprocess.run(
        [sys.executable, "-m", "helpers.many_commands", "commands.json"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    return {" ".join(command): tuple(r) for command, r in zip(early + late, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize(
    ("arguments", "message"), EARLY + LATE, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_bad_input_is_one_line_that_names_the_value(arguments: list[str], message: str, reported: Reported) -> None:
    status, errors, _ = reported[" ".join(arguments)]
    assert status != 0
    assert errors.startswith("bnrecal: ")
    assert errors.count("\n") == 1
    assert message in errors


@pytest.mark.parametrize("arguments", [arguments for arguments, _ in EARLY], ids=" ".join)
def test_settings_are_checked_before_torch_is_loaded(arguments: list[str], reported: Reported) -> None:
    assert not reported[" ".join(arguments)][2]
