"""Finished pieces of a long run, one JSON file each, so that a run that was stopped goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnrecal.experiment.results import read_json
from bnrecal.files import atomic_path


def cached_json(path: Path, make: Callable[[], dict[str, Any]], *, resume: bool = True) -> dict[str, Any]:
    """What `path` holds, or (without the file, or without `resume`) what `make` returns, which is then kept there.

    The name must say everything that the content depends on (a content hash).

    Raises:
        BnrecalError: if the file holds no JSON object or cannot be written.
    """
    if resume and path.exists():
        return read_json(path)
    made = make()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n")
    return made
