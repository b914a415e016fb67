"""The `bnrecal` command: a plain run by `key=value`, and the subcommands beside it."""

import re
import sys

from bnrecal import __version__
from bnrecal.commands import run
from bnrecal.commands.common import choices, on_all_processes, one_line_errors
from bnrecal.commands.keys import describe_keys
from bnrecal.commands.registry import COMMANDS
from bnrecal.errors import BnrecalError

_WORD = re.compile(r"[\w-]*\w$")


def main() -> None:
    """Exits with a status other than 0 if anything failed, and says what in one line on stderr."""
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else ""
    with one_line_errors():
        if first in ("-h", "--help"):
            print(describe_commands())
        elif first == "--version":
            print(f"bnrecal {__version__}")
        elif first in COMMANDS:
            on_all_processes(1, lambda: COMMANDS[first](arguments[1:]))
        elif _WORD.match(first) and not first.startswith("-"):
            raise BnrecalError(_unknown(first))
        else:
            on_all_processes(1, run.main)  # under torchrun only rank 0 reads the arguments


def describe_commands() -> str:
    """What `bnrecal --help` prints."""
    commands = "\n".join(f"  bnrecal {name:<9}{command.summary}" for name, command in COMMANDS.items())
    head = f"""bnrecal [key=value ...]          one experiment
       bnrecal -m [key=v1,v2 ...]       a sweep over every combination (Hydra's multirun)
       bnrecal COMMAND [...]            one of the commands below; bnrecal COMMAND --help explains it

Commands:
{commands}

`python -m bnrecal` is the same as `bnrecal`. bnrecal --hydra-help lists Hydra's own options."""
    return describe_keys("config", head)


def _unknown(word: str) -> str:
    return f"{word} is no command: {choices(word, list(COMMANDS))}, or write key=value"
