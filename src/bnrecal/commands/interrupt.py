"""Ctrl-C that stays Ctrl-C, whatever libraries make of it.

Python turns the signal into a KeyboardInterrupt wherever the program is just then. Where a library tidies up on its
way out and the tidying fails, another exception takes its place: OmegaConf, interrupted while it sets a list, ends in
an AttributeError, so that between two cells of a sweep Ctrl-C looked like a failed program. In a destructor or a
callback from C it is printed and forgotten. So the signal is noted as well, and looked up afterwards.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_noted = threading.Event()


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C came inside `ctrl_c_noted`, even if somebody lost it since."""
    if _noted.is_set():
        raise KeyboardInterrupt


@contextmanager
def ctrl_c_noted() -> Iterator[None]:
    """Where Ctrl-C came inside the block, the block ends in KeyboardInterrupt, whatever it would have ended in."""
    installed = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not installed or threading.current_thread() is not threading.main_thread():
        yield  # ignored, or somebody else's
        return
    _noted.clear()
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise_if_interrupted()


def _note(number: int, frame: FrameType | None) -> None:
    _noted.set()
    signal.default_int_handler(number, frame)
