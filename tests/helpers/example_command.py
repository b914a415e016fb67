"""Stands in for `bnrecal` in the examples of the documentation: shrinks what it is asked, or only composes it.

The environment says which: BNRECAL_EXAMPLE=run appends settings that make a run take seconds, BNRECAL_EXAMPLE=compose
reads and checks the arguments, for examples that need something that is not there. A failure is noted in the file
BNRECAL_FAILURES too, because a shell does not pass on the status of everything it starts.
"""

import argparse
import os
import runpy
import sys
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from bnrecal.commands.cli.compose import compose_config, read_config
from bnrecal.commands.cli.registry import COMMANDS, FilesCommand
from bnrecal.commands.cli.schemas import SCHEMAS
from bnrecal.config import parse

RUN = [
    "device=cpu",
    "data.val_images=60",
    "calibration.images=40",
    "recalibration.images=32",
    "recalibration.batch_size=16",
]
SEARCH = ["search.sensitivity_images=32", "search.images=32", "search.heldout_images=32", "search.rounds=0"]
# a network of two layers that can run threads: the search measures every layer many times
TINY = ["model=custom", "model.factory=helpers.nets:glyph_net", "data.allow_chance=true"]
SMALL = {
    "table1": [*RUN, "rows=[{source: PyTorch, label: ResNet-18, model: resnet18}]"],
    "figure1": [*RUN, *SEARCH, *TINY, "points=2", "networks=[{panel: a, label: Tiny, model: custom}]"],
    "plan": [*RUN, *SEARCH, *TINY, "speedup=2.0"],
    "prune": [*RUN, "prune.epochs=0"],
    "export": [*RUN, "vectors.outputs=1"],
    "bench": ["models=[resnet18]", "batch=1", "repeats=1", "size=32"],
}


def main(arguments: list[str]) -> int:
    """The exit status."""
    name = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    if os.environ["BNRECAL_EXAMPLE"] == "compose":
        check(name, arguments[1:] if name else arguments)
        return 0
    settings = not isinstance(COMMANDS.get(name), FilesCommand) and not any(a.startswith("--") for a in arguments)
    small = SMALL.get(name, RUN) if settings else []
    sys.argv = ["bnrecal", *arguments, *small]
    try:
        runpy.run_module("bnrecal", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return int(bool(end.code))
    return 0


def check(name: str, arguments: list[str]) -> None:
    """Raise if the command would refuse its arguments."""
    command = COMMANDS.get(name)
    if isinstance(command, FilesCommand):
        parser = argparse.ArgumentParser(prog=name)
        command.add_arguments(parser)
        parser.parse_args(arguments)
    elif command is not None:
        read_config(SCHEMAS[name], arguments)
    else:
        overrides = OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"])
        sweep = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        for cell in (cell for batch in sweep for cell in batch):
            parse(compose_config("config", list(cell)))


if __name__ == "__main__":
    status = 1
    try:
        status = main(sys.argv[1:])
    finally:
        if status:
            with Path(os.environ["BNRECAL_FAILURES"]).open("a") as failures:
                failures.write(f"bnrecal {' '.join(sys.argv[1:])}\n")
    sys.exit(status)
