"""One experiment in one folder: measured, completed, or finished earlier."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from bnrecal.config import Config
from bnrecal.errors import BnrecalError
from bnrecal.experiment.identity import Identity, differences
from bnrecal.experiment.measured_on import warn_of_another_device
from bnrecal.experiment.records import ResultRecord
from bnrecal.experiment.results import (
    RESULT_FILE,
    Details,
    Result,
    missing_details,
    read_result,
    summary,
    write_details,
    write_result,
)
from bnrecal.experiment.run import describe, run_loaded
from bnrecal.experiment.setup import Experiment, identify, load

log = logging.getLogger("bnrecal")


@dataclass(frozen=True)
class CellResult:
    """The content of a folder's `result.json`, where that lies, and whether all of it was there already."""

    result: ResultRecord
    path: Path
    reused: bool

    @property
    def text(self) -> str:
        """The summary for the terminal."""
        text = summary(self.result, self.path)
        return f"{text} (finished earlier)" if self.reused else text


def run_into(config: Config, folder: Path) -> CellResult:
    """Run an experiment and write its files into `folder`: the accuracies first, then per-layer tables, then weights.

    A finished experiment is left alone. One that ended after the accuracies were written is completed, and nothing is
    evaluated again.
    """

    @cache
    def loaded() -> Experiment:  # once, and only if there is something to compare or to do
        return load(config)

    kept = earlier(config, folder, lambda: loaded().identity)
    if kept is not None and not missing_details(folder, checkpoint=config.save_checkpoint):
        return CellResult(kept, folder / RESULT_FILE, reused=True)
    if kept is None:
        details: Result | Details = run_loaded(loaded(), measured=lambda result: write_result(result, folder))
    else:
        details = describe(loaded())
    write_details(details, folder, checkpoint=config.save_checkpoint)
    path = folder / RESULT_FILE
    return CellResult(read_result(path), path, reused=False)


def finished(config: Config, folder: Path) -> CellResult | None:
    """The result that `folder` holds, if it is of just this experiment and everything asked for is beside it."""
    kept = earlier(config, folder, partial(identify, config))
    if kept is None or missing_details(folder, checkpoint=config.save_checkpoint):
        return None
    return CellResult(kept, folder / RESULT_FILE, reused=True)


def earlier(config: Config, folder: Path, identity_now: Callable[[], Identity]) -> ResultRecord | None:
    """The result that `folder` holds, if it is of just this experiment; a line in the log says why it is not.

    Args:
        identity_now: called where there is a result to compare with.
    """
    path = folder / RESULT_FILE
    if not config.resume or not path.exists():
        return None
    try:
        result = read_result(path)
        identity = result["provenance"]["identity"]
    except (BnrecalError, KeyError, TypeError):
        log.warning("%s is damaged or of an earlier version: measured again", path)
        return None
    changed = differences(identity, identity_now())
    if changed:
        log.warning("%s is measured again: %s changed", folder.name, ", ".join(changed))
        return None
    warn_of_another_device(config, result["provenance"].get("device_kind"))
    return result
