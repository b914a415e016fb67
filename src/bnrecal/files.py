"""Where things that can be made again are kept between runs, and how files are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnrecal.errors import BnrecalError


def cache_dir(*parts: str) -> Path:
    """The folder `$BNRECAL_CACHE` (default `$XDG_CACHE_HOME/bnrecal`, else `~/.cache/bnrecal`) / parts, created.

    Raises:
        BnrecalError: if it cannot be created.
    """
    base = os.environ.get("BNRECAL_CACHE")
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnrecal"
    path = root.joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BnrecalError(f"cannot create the cache folder {path} ({error.strerror}): set BNRECAL_CACHE") from error
    return path


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends well and is removed when it does not.

    Readers, and a run that is killed, see the old file or the new one, never a half.

    Raises:
        BnrecalError: if the folder cannot be written.
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
    finally:
        temporary.unlink(missing_ok=True)
