"""Every command by name, and where its work is done. A new command is one line here (docs: CONTRIBUTING.md)."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.help import describe_keys
from bnrecal.commands.cli.ranks import on_all_processes
from bnrecal.commands.cli.schemas import SCHEMAS
from bnrecal.errors import BnrecalError
from bnrecal.files import check_writable


@dataclass(frozen=True)
class SettingsCommand:
    """Takes `key=value`, as a plain run does; its schema is in `SCHEMAS`, its defaults in configs/<name>.yaml.

    Attributes:
        work: package.module:function, imported only once the settings were found good: torch takes seconds to load.
            It is called with the checked settings and the list of `key=value` arguments.
    """

    name: str
    work: str

    @property
    def summary(self) -> str:
        return (SCHEMAS[self.name].__doc__ or "").strip().split("\n")[0]

    def __call__(self, arguments: Sequence[str]) -> None:
        """Run with these command-line arguments."""
        if any(argument in ("-h", "--help") for argument in arguments):
            print(describe_keys(self.name, f"bnrecal {self.name} [key=value ...]"))
            return
        config = read_config(SCHEMAS[self.name], arguments)
        check_writable(Path(config.out))  # before anything is measured
        on_all_processes(getattr(config, "gpus", 1), lambda: _load(self.work)(config, arguments))


@dataclass(frozen=True)
class FilesCommand:
    """Takes files or folders that other commands wrote.

    Attributes:
        work: as in `SettingsCommand`; called with the parsed arguments.
    """

    name: str
    work: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]

    def __call__(self, arguments: Sequence[str]) -> None:
        """Run with these command-line arguments."""
        parser = _Parser(prog=f"bnrecal {self.name}", description=self.summary)
        self.add_arguments(parser)
        parsed = parser.parse_args(arguments)
        _load(self.work)(parsed)


class _Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one line, as every other command does."""

    def error(self, message: str) -> NoReturn:
        raise BnrecalError(f"{message} ({self.prog} --help explains the arguments)")


def _load(work: str) -> Callable[..., Any]:
    module, function = work.split(":")
    work_function: Callable[..., Any] = getattr(import_module(f"bnrecal.commands.{module}"), function)
    return work_function


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="searched for results, at any depth")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the CSV file; without it the table is printed")


def _plot_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds layers.csv and batchnorm.csv of a run")


Command = SettingsCommand | FilesCommand
COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        SettingsCommand("table1", "table1:make_table1"),
        SettingsCommand("figure1", "figure1:make_figure1"),
        SettingsCommand("plan", "plan:make_plan"),
        SettingsCommand("prune", "prune:make_pruned"),
        SettingsCommand("export", "export:make_export"),
        SettingsCommand("bench", "bench:run_bench"),
        FilesCommand("merge", "merge:merge_folders", "Merge results into one tidy CSV.", _merge_arguments),
        FilesCommand("plot", "plot:plot_folder", "Draw what happened in each layer of one run.", _plot_arguments),
    )
}
