"""Runs many commands in forks of one process, so that what all of them import is imported once.

    python -m helpers.many_commands FILE

FILE holds two JSON lists of lists of arguments; before the second, torch is loaded for all. A JSON list of
[exit status, stderr, whether torch was loaded] is printed.
"""

import gc
import json
import os
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from bnrecal.commands.main import main

LATE = ("bnrecal.experiment.cell", *[f"bnrecal.commands.{name}" for name in ("table1", "figure1", "merge", "plot")])


def in_a_fork(arguments: list[str]) -> tuple[int, str, bool]:
    """Exit status, stderr, whether torch was loaded."""
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as loaded:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["bnrecal", *arguments]
            status = 0
            signal.alarm(120)  # one that is not refused would go on and measure
            try:
                main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1 if end.code else 0
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            except Exception:  # noqa: BLE001 (a traceback is what the tests look for)
                sys.excepthook(*sys.exc_info())
                status = 1
            finally:
                loaded.write("torch" if "torch" in sys.modules else "")
                loaded.flush()
                sys.stderr.flush()
                os._exit(status)
        _, raw = os.waitpid(child, 0)
        errors.seek(0)
        loaded.seek(0)
        return os.waitstatus_to_exitcode(raw), errors.read(), bool(loaded.read())


if __name__ == "__main__":
    early, late = json.loads(Path(sys.argv[1]).read_text())
    OverridesParser.create().parse_overrides(["seed=0"])  # its tables, which take half of the time of a short command
    gc.freeze()  # a collection in a fork would copy the pages of all that was imported
    results = [in_a_fork(arguments) for arguments in early]
    for module in LATE:
        import_module(module)
    results += [in_a_fork(arguments) for arguments in late]
    print(json.dumps(results))
