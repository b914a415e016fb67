"""The cells of a sweep: finished ones are left alone, others run here or in processes of this machine or a cluster."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bnrecal.commands.cli.compose import parse_experiment, register_all
from bnrecal.commands.cli.errors import describe_error, failures, raise_if_interrupted, tracebacks_wanted
from bnrecal.commands.experiment import finished_earlier, run_composed
from bnrecal.errors import BnrecalError
from bnrecal.memory import keep_freed_memory
from bnrecal.processes import in_processes

ERROR_FILE = "error.txt"

log = logging.getLogger("bnrecal")


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep, and what a process needs to run it.

    Attributes:
        number: its place in the sweep, from 0.
        config: as Hydra composed it for this cell, `hydra` included.
        context: what Hydra's `run_job` asks for.
        folder: where its result goes.
    """

    number: int
    overrides: tuple[str, ...]
    config: DictConfig
    context: HydraContext
    folder: Path

    @property
    def name(self) -> str:
        """The folder's name, which is unique and tells what runs."""
        return self.folder.name


@dataclass(frozen=True)
class Outcome:
    """The result of a cell or its error: plain values, which reach another process whatever the cell raised.

    Attributes:
        top1: in %; None for a cell that failed.
        text: the summary of the result.
        error: one line; empty for a cell that did not fail.
        details: a traceback, where `error` is nothing that the user can mend.
    """

    top1: float | None = None
    text: str = ""
    error: str = ""
    details: str = ""

    @classmethod
    def failed(cls, error: BaseException) -> "Outcome":
        """Make the outcome of a cell that raised `error`."""
        line, known = describe_error(error)
        return cls(error=line, details="" if known else "".join(traceback.format_exception(error)))


Runner = Callable[[Sequence[Cell]], Iterator[tuple[Cell, Outcome]]]
"""Yields the outcome of every cell it is given, in any order."""


def launch(
    runner: Runner, context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run the cells of a sweep that have no result yet.

    Args:
        job_overrides: the `key=value` of each cell, as Hydra's sweeper gives them; `first` is the first one's number.

    Returns:
        For each cell its top-1 in %, None where it failed: a failed cell is in `failures`, and nothing is raised.
    """
    setup_globals()
    logs = (config.hydra.hydra_logging, config.hydra.verbose)
    configure_log(*logs)
    cells = _compose_cells(context, config, job_overrides, first)
    unique = {cell.folder: cell for cell in reversed(cells)}  # settings that change nothing: one cell, run once
    outcomes: dict[Path, Outcome] = {}
    for cell, outcome in _outcomes(list(unique.values())[::-1], runner):
        raise_if_interrupted()
        configure_log(*logs)  # a cell in this process has set up its own
        outcomes[cell.folder] = outcome
        _report(cell, outcome)
    return [
        JobReturn(cell.overrides, status=JobStatus.COMPLETED, _return_value=outcomes[cell.folder].top1)
        for cell in cells
    ]


def _compose_cells(
    context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Cell]:
    cells = []
    for number, overrides in enumerate(job_overrides, first):
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = str(number)
            composed.hydra.job.num = number
        HydraConfig.instance().set_config(composed)  # for resolvers that look at `hydra`
        folder = Path(composed.hydra.sweep.dir) / str(OmegaConf.select(composed, "hydra.sweep.subdir"))
        cells.append(Cell(number, tuple(overrides), composed, context, folder))
    return cells


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
        return Outcome.failed(error)
    return None if done is None else Outcome(done.result["top1"], done.text)


def _report(cell: Cell, outcome: Outcome) -> None:
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


def run_cell(cell: Cell, singletons: dict[Any, Any] | None = None) -> Outcome:
    """Run a cell in this process, wherever that is; no exception of the cell gets out.

    Args:
        singletons: `Singleton.get_state()` of the process that composed the cell, if that is another one.
    """
    if singletons is not None:
        keep_freed_memory()
        Singleton.set_state(singletons)
        setup_globals()
        register_all()
    try:
        done = run_job(run_composed, cell.config, "hydra.sweep.dir", "hydra.sweep.subdir", cell.context)
    except (OSError, HydraException, OmegaConfBaseException) as error:  # of what Hydra does before and after the cell
        return Outcome.failed(error)
    value = done._return_value  # the property would raise what the cell raised
    if done.status is JobStatus.FAILED:
        return Outcome.failed(value)
    return Outcome(value.result["top1"], value.text) if value else Outcome()  # of a process that only helped


def run_serially(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
    """A `Runner` of one cell after the other, in this process."""
    for cell in cells:
        try:
            outcome = run_cell(cell)
        except SystemExit as error:  # somebody's network or factory called sys.exit
            outcome = Outcome(error=f"the task called sys.exit({error.code})")
        yield cell, outcome


def on_this_machine(n_jobs: int) -> Runner:
    """Make a `Runner` that keeps `n_jobs` cells going, each in a process by itself, as `in_processes` does."""
    if n_jobs < 1:
        raise BnrecalError(f"hydra.launcher.n_jobs={n_jobs}: must be at least 1")

    def run(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Outcome]]:
        work = partial(run_cell, singletons=Singleton.get_state())
        for cell, outcome in in_processes(work, cells, n_jobs):
            yield cell, Outcome.failed(outcome) if isinstance(outcome, Exception) else outcome

    return run
