"""Commands, and pytest's processes, in forks of one process that has imported what they import.

Torch alone takes five seconds a command, and 300 MB a process, which forks share.

    python fork_server.py serve SOCKET PID            until the process PID ends
    python fork_server.py run MODULE ARGUMENTS        as `python -m MODULE ARGUMENTS`, in a fork
    python fork_server.py run -u -c CODE              as `python -u -c CODE`, in a fork

A fork has a folder, environment variables, files and an exit status of its own: but for its imports it is a process of
its own. Variables that are read during imports (`READ_AT_IMPORT`) do not reach it.
"""

import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

FORKS = sys.platform != "darwin"  # whose frameworks do not survive a fork
SOCKET = "BNRECAL_TEST_FORKS"
WARNINGS = "BNRECAL_TEST_WARNINGS"  # what pytest was given with -W
READ_AT_IMPORT = ("HOME", "PYTHONPATH", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "NUMBA_DISABLE_JIT")
COMMANDS = ("experiment", "table1", "figure1", "plan", "export", "bench", "merge", "plot", "parallel.sweep")
PRELOADED = (*[f"commands.{name}" for name in COMMANDS], "experiment.cell")
MOST = 1 << 20  # bytes that are read at a time
STARTS_WITHIN = 600.0  # seconds; a fresh, crowded machine compiles kernels and takes minutes over imports


def run_in_fork(
    command: Sequence[str], folder: Path, env: Mapping[str, str], files: Sequence[int], timeout: float | None
) -> int:
    """Run `python -m MODULE ARGUMENTS` in a fork of the server that listens at `env[SOCKET]`.

    Args:
        command: MODULE, ARGUMENTS.
        env: all environment variables.
        files: descriptors of stdin, stdout and stderr.
        timeout: seconds, after which the fork is killed; None lets it run.

    Returns:
        The exit status; minus a signal's number where one ended it.

    Raises:
        TimeoutError: when it was killed.
    """
    request = {"command": list(command), "folder": str(folder), "env": dict(env)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(env[SOCKET])
        socket.send_fds(connection, [b"{"], list(files))  # descriptors travel with bytes
        connection.sendall(json.dumps(request).encode()[1:])
        connection.shutdown(socket.SHUT_WR)
        pid = int(connection.recv(MOST))
        if not select.select([connection], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"{' '.join(command)} took more than {timeout} s")
        return int(connection.recv(MOST))


def as_fork(*arguments: str) -> list[str]:
    """Return what makes Python run MODULE ARGUMENTS in a fork of the server that the variable SOCKET names."""
    return ["-S", __file__, "run", *arguments]


@cache
def server() -> str:
    """Return the socket of the server, which starts at the first call; a process that it forked has the same."""
    if os.environ.get(SOCKET):
        return os.environ[SOCKET]
    path = Path(tempfile.mkdtemp(prefix="bnrecal-")) / "forks"
    command = [sys.executable, __file__, "serve", str(path), str(os.getpid())]
    quiet = [(os.POSIX_SPAWN_OPEN, standard, os.devnull, os.O_RDWR, 0) for standard in (0, 1)]
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": with_tests(os.environ.get("PYTHONPATH", ""))}
    pid = os.posix_spawn(sys.executable, command, variables, file_actions=quiet)
    deadline = time.monotonic() + STARTS_WITHIN
    while not path.exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the server of forks ended: its error is above"
        assert time.monotonic() < deadline, "the server of forks did not start"
        time.sleep(0.05)
    return str(path)


def with_tests(paths: str) -> str:
    """Return PYTHONPATH with this folder's, in which commands under test find `helpers.nets`."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), paths]))


def serve(path: Path, parent: int) -> None:
    """Answer requests until the process `parent` ends."""
    with warnings.catch_warnings():
        for option in ("error", *os.environ.get(WARNINGS, "").split()):  # as in test processes, which find all loaded
            warnings._setoption(option)  # type: ignore[attr-defined]
        for name in PRELOADED:
            import_module(f"bnrecal.{name}")
    compiling = os.fork()  # the compiler's memory ends with it; the server then loads the kernels that it kept
    if compiling == 0:
        warm_up()
        os._exit(0)
    _, status = os.waitpid(compiling, 0)
    assert status == 0, f"compiling the kernels ended with status {status}: the error, if it printed one, is above"
    warm_up()
    gc.freeze()  # a collection in a fork would copy the pages of all that was imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with `parent`
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that handle a request
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path.with_suffix(".new")))
    listener.listen()
    listener.settimeout(1)
    path.with_suffix(".new").rename(path)
    while alive(parent):
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                handle(connection)
            connection.close()
    shutil.rmtree(path.parent)


def warm_up() -> None:
    """Do what every command would do for itself: half of the time of a short one.

    It reads Hydra's tables, draws the letters, loads the kernels and checks them.
    """
    import torch
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins

    from bnrecal.data.glyphs.atlas import load_atlas
    from bnrecal.nbsmt.analysis.self_check import check_exact_once

    OverridesParser.create().parse_overrides(["seed=0"])
    Plugins.instance()
    load_atlas()
    workers = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork would wait for threads that it has not
    check_exact_once(torch.device("cpu"))
    torch.set_num_threads(workers)


def alive(pid: int) -> bool:
    """Return whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def handle(connection: socket.socket) -> NoReturn:
    """Do what a connection asks for in a fork, and report its process id and its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(None)
    content, files, _, _ = socket.recv_fds(connection, MOST, 3)
    while more := connection.recv(MOST):
        content += more
    pid = os.fork()
    if pid == 0:
        connection.close()
        work(json.loads(content), files)
    connection.sendall(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # after Ctrl-C nobody may wait for it
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def work(request: Mapping[str, Any], files: Sequence[int]) -> NoReturn:
    """Be the process that was asked for, to its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard, given in enumerate(files):
        os.dup2(given, standard)
        os.close(given)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    module, *arguments = request["command"]
    sys.path[0] = os.getcwd()
    status = 0
    try:
        if module == "-u":  # as xdist calls Python: -u -c CODE
            sys.modules["__main__"] = ModuleType("__main__")
            exec(arguments[-1], vars(sys.modules["__main__"]))
        else:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 (as Python itself does)
        sys.excepthook(*sys.exc_info())
        status = 1
    # as Python ends, but for taking all modules apart, which would copy their pages
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(run_in_fork(sys.argv[2:], Path.cwd(), os.environ, (0, 1, 2), None))
