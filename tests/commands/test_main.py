"""One entry for every command: what it lists, what it loads, and how wrong words are reported."""

import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from helpers.command_line import bnrecal, run

from bnrecal.commands.cli.compose import config_dir
from bnrecal.commands.cli.registry import COMMANDS
from bnrecal.commands.cli.schemas import SCHEMAS
from bnrecal.config import Config

HEAVY = ("torch", "numba", "pandas", "matplotlib", "scipy")


def leaves(schema: type[Any], prefix: str = "") -> dict[str, Any]:
    """Every key that can be set, with its metadata."""
    hints = get_type_hints(schema)
    found: dict[str, Any] = {}
    for f in fields(schema):
        if is_dataclass(hints[f.name]):
            found |= leaves(hints[f.name], f"{prefix}{f.name}.")
        else:
            found[f"{prefix}{f.name}"] = f.metadata
    return found


@pytest.mark.parametrize("schema", [Config, *SCHEMAS.values()], ids=lambda schema: schema.__name__)
def test_every_key_says_what_it_means(schema: type[Any]) -> None:
    assert [key for key, metadata in leaves(schema).items() if not metadata.get("help")] == []


def test_help_lists_every_command_and_every_key(tmp_path: Path) -> None:
    output = bnrecal("--help", folder=tmp_path)
    for name, command in COMMANDS.items():
        assert f"bnrecal {name}" in output
        assert command.summary in output
    for key in leaves(Config):
        assert f" {key}=" in output
    for name in ("resnet50_mlperf", "imagenette"):
        assert name in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_help_of_a_command_shows_the_defaults_it_would_run_with(name: str, tmp_path: Path) -> None:
    output = bnrecal(name, "--help", folder=tmp_path)
    for key in leaves(SCHEMAS[name]):
        assert f" {key}=" in output
    if name == "figure1":
        assert "search.images=1024" in output  # configs/figure1.yaml, not the schema's 2048


@pytest.mark.parametrize("name", ["merge", "plot"])
def test_commands_that_take_folders_explain_them(name: str, tmp_path: Path) -> None:
    output = bnrecal(name, "--help", folder=tmp_path)
    assert output.startswith(f"usage: bnrecal {name} ")
    assert "FOLDER" in output


def test_version(tmp_path: Path) -> None:
    assert bnrecal("--version", folder=tmp_path).startswith("bnrecal 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel1"], "tabel1 is no command: did you mean table1? choose one of table1, figure1, plan"),
        (["table1", "seeds=0"], "seeds=0: must be at least 1"),
        (["table1", "--seeds=3"], "cannot read the argument --seeds=3: write key=value"),
        (["figure1", "smt.threads=3"], "smt.threads=3: choose one of 1, 2, 4"),
        (["plan", "speed=3"], "there is no key speed: did you mean speedup? choose one of"),
        (["prune", "prune.sparsity=1"], "prune.sparsity=1.0: choose a share above 0 and below 1"),
        (["bench", "batch=0"], "batch=0 and repeats=7 must be at least 1"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"bnrecal: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["table1", "--help"],
        ["plot", "--help"],
        ["bench", "device=cpu", "batch=0"],
        ["figure1", "points=1"],
        ["smt.threads=3"],
        ["merge"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded_before_the_arguments_are_found_good(arguments: list[str], tmp_path: Path) -> None:
    script = f"""
import sys
from bnrecal.commands.main import main
sys.argv = ["bnrecal", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_every_settings_file_has_its_command() -> None:
    assert {path.stem for path in config_dir().glob("*.yaml")} == {"config", *SCHEMAS}
    assert set(SCHEMAS) <= set(COMMANDS)
