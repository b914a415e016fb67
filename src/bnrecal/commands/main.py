"""The `bnrecal` command: one experiment by `key=value`, and the subcommands beside it."""

import re
import sys

from bnrecal import __version__
from bnrecal.commands import experiment
from bnrecal.commands.cli.errors import choices, failures, one_line_errors
from bnrecal.commands.cli.help import describe_keys
from bnrecal.commands.cli.ranks import on_all_processes
from bnrecal.commands.cli.registry import COMMANDS
from bnrecal.errors import BnrecalError
from bnrecal.memory import keep_freed_memory

_WORD = re.compile(r"[\w-]*\w$")


def main() -> None:
    """Run what `sys.argv` says. Exits with a status other than 0 if anything failed, with a line on stderr for each."""
    keep_freed_memory()
    with one_line_errors():
        _dispatch(sys.argv[1:])
    if failures:
        sys.exit("\n".join(f"bnrecal: {failure}" for failure in failures))


def _dispatch(arguments: list[str]) -> None:
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(describe_commands())
    elif first == "--version":
        print(f"bnrecal {__version__}")
    elif first in COMMANDS:
        on_all_processes(1, lambda: COMMANDS[first](arguments[1:]))
    elif _WORD.match(first) and not first.startswith("-"):
        raise BnrecalError(f"{first} is no command: {choices(first, list(COMMANDS))}, or write key=value")
    else:
        on_all_processes(1, experiment.main)  # under torchrun only rank 0 reads the arguments


def describe_commands() -> str:
    """Return what `bnrecal --help` prints."""
    commands = "\n".join(f"  bnrecal {name:<9}{command.summary}" for name, command in COMMANDS.items())
    head = f"""bnrecal [key=value ...]          one experiment
       bnrecal -m [key=v1,v2 ...]       a sweep over every combination (Hydra's multirun)
       bnrecal COMMAND [...]            one of the commands below; bnrecal COMMAND --help explains it

Commands:
{commands}

`python -m bnrecal` is the same as `bnrecal`. bnrecal --hydra-help lists Hydra's own options."""
    return describe_keys("config", head)
