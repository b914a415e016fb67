"""What all launchers share: finished cells are left alone, failed ones are told and listed at the end."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bnrecal.commands.common import parse_experiment, tracebacks_wanted
from bnrecal.commands.interrupt import raise_if_interrupted
from bnrecal.commands.job import finished_earlier
from bnrecal.commands.launchers.cells import Cell, Outcome, Runner, compose_cells, failed
from bnrecal.errors import BnrecalError

ERROR_FILE = "error.txt"

failures: list[str] = []
"""A line for each cell that failed in this process's sweeps; the command ends with them."""

log = logging.getLogger("bnrecal")


def launch(
    runner: Runner, context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run the cells of a sweep that have no result yet.

    Returns:
        For each job its top-1 in %, None where it failed: a failed cell is in `failures`, and nothing is raised.
    """
    setup_globals()
    logs = (config.hydra.hydra_logging, config.hydra.verbose)
    configure_log(*logs)
    cells = compose_cells(context, config, job_overrides, first)
    unique = {cell.folder: cell for cell in reversed(cells)}  # settings that change nothing: one cell, one run
    outcomes: dict[Path, Outcome] = {}
    for cell, outcome in _outcomes(list(unique.values())[::-1], runner):
        raise_if_interrupted()
        configure_log(*logs)  # a job in this process has set up its own
        outcomes[cell.folder] = outcome
        _tell(cell, outcome)
    return [
        JobReturn(cell.overrides, status=JobStatus.COMPLETED, _return_value=outcomes[cell.folder].top1)
        for cell in cells
    ]


def _outcomes(cells: Sequence[Cell], runner: Runner) -> Iterator[tuple[Cell, Outcome]]:
    missing = []
    for cell in cells:
        outcome = _without_running(cell)
        if outcome is None:
            missing.append(cell)
        else:
            yield cell, outcome
    for cell in missing:
        log.info("#%d %s: %s", cell.number, cell.name, " ".join(filter_overrides(cell.overrides)))
    if missing:
        yield from runner(missing)


def _without_running(cell: Cell) -> Outcome | None:
    """The outcome of a cell that is finished, or whose settings are wrong."""
    try:
        done = finished_earlier(parse_experiment(cell.config), cell.folder)
    except (BnrecalError, OmegaConfBaseException) as error:
        return failed(error)
    return None if done is None else Outcome(done.top1, done.text)


def _tell(cell: Cell, outcome: Outcome) -> None:
    path = cell.folder / ERROR_FILE
    if not outcome.error:
        path.unlink(missing_ok=True)
        print(outcome.text, flush=True)
        return
    more = ""
    with suppress(OSError):  # the message counts; a full disk may be what it is about
        cell.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{outcome.error}\n{outcome.details}")
        more = f" (traceback in {path})" if outcome.details else ""
    if outcome.details and tracebacks_wanted():
        sys.stderr.write(outcome.details)
    failures.append(f"{cell.name} failed: {outcome.error}{more}")
    log.error("%s failed: %s", cell.name, outcome.error)
