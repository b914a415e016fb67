"""Where things that can be made again are kept between runs, and how files are written whole or not at all."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from bnrecal.errors import BnrecalError

log = logging.getLogger("bnrecal")


@cache
def warn_once(message: str) -> None:
    """Log a warning, each message once in a process."""
    log.warning("%s", message)


@cache
def log_once(message: str) -> None:
    """Log a line of information, each once in a process."""
    log.info("%s", message)


def cache_path(*parts: str) -> Path:
    """The folder `$BNRECAL_CACHE` (default `$XDG_CACHE_HOME/bnrecal`, else `~/.cache/bnrecal`) / parts."""
    base = os.environ.get("BNRECAL_CACHE")
    own = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return (Path(base) if base else Path(own) / "bnrecal").joinpath(*parts)


def cache_dir(*parts: str) -> Path:
    """`cache_path`, created."""
    path = cache_path(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BnrecalError(f"cannot create the cache folder {path} ({error.strerror}): set BNRECAL_CACHE") from error
    return path


def check_writable(out: Path) -> None:
    """Raise BnrecalError if nothing can be written where `out` is, or will be made. Makes nothing itself."""
    try:
        existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        folder = existing.parent if existing == out.absolute() and not existing.is_dir() else existing
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise BnrecalError(f"cannot write {out} ({error.strerror}): choose another folder") from error


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends well and is removed when it does not.

    Readers, and a run that is killed, see the old file or the new one, never a half.

    Raises:
        BnrecalError: if the folder cannot be written, or the disk is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
    except OSError as error:
        raise BnrecalError(f"cannot write {target} ({error.strerror}): choose another folder") from error
    os.close(handle)
    temporary = Path(name)
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.filename is not None and error.filename != str(temporary):
            raise  # another file's trouble
        raise BnrecalError(f"cannot write {target} ({error.strerror}); what was finished is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
