"""Errors in one line on stderr, and Ctrl-C that ends a command with status 130 whatever libraries make of it."""

import difflib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bnrecal.errors import BnrecalError, one_line, with_type

FULL_ERROR = "HYDRA_FULL_ERROR"  # set by someone who wants the traceback of an error
_ONE_LINE = "BNRECAL_ONE_LINE"  # says that FULL_ERROR was set by `pass_errors_through`, here or in the parent process

MOVED = {
    "costs": "in a checkout, python scripts/measure_costs.py and python scripts/measure_shares.py print what it did"
}
"""Keys of earlier versions, with what takes their place."""

failures: list[str] = []
"""A line for each experiment or cell that failed without ending the command, which ends with them and status 1."""

_interrupted = threading.Event()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on stderr for anything the user can mend; Ctrl-C ends it with status 130.

    With HYDRA_FULL_ERROR=1 in the environment the exception passes instead.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it has much to say about a home that is read-only
    logging.raiseExceptions = False  # a log line that nobody can read any more is no reason for a traceback
    if tracebacks_wanted():
        yield
        return
    try:
        with ctrl_c_noted():
            yield
            sys.stdout.flush()
    except (BnrecalError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"bnrecal: {user_message(error)}")
    except OSError as error:
        _forget_stdout()
        if isinstance(error, BrokenPipeError):
            sys.exit("bnrecal: nobody reads the output any more; what was finished is kept")
        sys.exit(f"bnrecal: {describe_error(error)[0]}")
    except KeyboardInterrupt:
        sys.stderr.write("bnrecal: interrupted; what was finished is kept\n")
        sys.exit(130)


def _forget_stdout() -> None:
    """Send what is still buffered nowhere: Python would try to write it once more at the end, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tracebacks_wanted() -> bool:
    """Return whether the user set HYDRA_FULL_ERROR=1."""
    return os.environ.get(FULL_ERROR, "0") not in ("", "0") and _ONE_LINE not in os.environ


def pass_errors_through() -> None:
    """Let Hydra pass exceptions on, for `one_line_errors` to word, instead of wording them itself."""
    if not tracebacks_wanted():
        os.environ[_ONE_LINE] = "1"
        os.environ[FULL_ERROR] = "1"


def describe_error(error: BaseException) -> tuple[str, bool]:
    """Return one line about an exception, and whether it is of a kind that a user can mend without a traceback."""
    if isinstance(error, (BnrecalError, HydraException, OmegaConfBaseException)):
        return user_message(error), True
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, True
    return with_type(error), False


def user_message(error: Exception) -> str:
    """Return an error's message in one line, without hints at Hydra's internals or full-key footers."""
    if isinstance(error, OverrideParseException):
        return f"cannot read the argument {error.override}: write key=value, with quotes around special characters"
    if unknown := _unknown_key(error.__cause__):
        return unknown
    parts = [_first_paragraphs(str(error))]
    if error.__cause__ is not None and not isinstance(error, BnrecalError):
        parts.append(_first_paragraphs(str(error.__cause__)))
    return ": ".join(part for part in parts if part)


def _unknown_key(cause: BaseException | None) -> str | None:
    """The message where a key is set that does not exist; None for any other error."""
    if not isinstance(cause, (ConfigAttributeError, ConfigKeyError)) or not isinstance(cause.parent_node, DictConfig):
        return None
    own = str(cause.key)
    path = str(cause.full_key)
    known = [str(key) for key in cause.parent_node if key != "hydra"]
    if path in MOVED:
        return f"there is no key {path} any more: {MOVED[path]}"
    if not known:  # a mapping, whose keys are the user's
        return f"there is no key {path}: write {path.rpartition('.')[0]}={{{own}: VALUE}}"
    deeper = [f"{group}.{own}" for group in known if own in _keys_below(cause.parent_node, group)]
    if deeper:
        return f"there is no key {path}: did you mean {' or '.join(deeper)}?"
    return f"there is no key {path}: {choices(own, known)}"


def _keys_below(parent: DictConfig, group: str) -> list[str]:
    """Return the keys of a group of settings; none of a key that is no group."""
    node = parent._get_node(group)
    is_group = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
    return [str(key) for key in node] if is_group and isinstance(node, DictConfig) else []


def choices(word: str, known: Sequence[str]) -> str:
    """Name what to choose instead of a wrong word: first one that begins with it, else the nearest, if there is one."""
    near = [one for one in known if one.startswith(word)] or difflib.get_close_matches(word, known, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}choose one of {', '.join(known)}"


def _first_paragraphs(message: str) -> str:
    for footer in ("Config search path", "full_key:", "To append to your config", "See https://"):
        message = message.split(footer)[0]
    return one_line(message)


# Python turns SIGINT into a KeyboardInterrupt wherever the program is just then. Where a library tidies up on its way
# out and the tidying fails, another exception takes its place: OmegaConf, interrupted while it sets a list, ends in an
# AttributeError, so that between two cells of a sweep Ctrl-C looked like a failed program. In a destructor or a
# callback from C it is printed and forgotten. So the signal is noted as well, and looked up afterwards.


@contextmanager
def ctrl_c_noted() -> Iterator[None]:
    """End the block in KeyboardInterrupt where Ctrl-C came inside it, whatever exception took its place since."""
    installed = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not installed or threading.current_thread() is not threading.main_thread():
        yield  # ignored, or somebody else's
        return
    _interrupted.clear()
    signal.signal(signal.SIGINT, _note_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise_if_interrupted()


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C came inside `ctrl_c_noted`, even if a library lost it since."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _note_interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    signal.default_int_handler(number, frame)
