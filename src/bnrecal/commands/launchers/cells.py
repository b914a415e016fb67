"""The cells of a sweep as plain values: what a process needs to run one, and what became of it."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bnrecal.commands.common import describe_error, register_all
from bnrecal.commands.job import run_composed


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Attributes:
        number: its place in the sweep, from 0.
        config: as Hydra composed it for this job, `hydra` included.
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
    """What became of a cell: plain values, which reach another process whatever the job raised.

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


Runner = Callable[[Sequence[Cell]], Iterator[tuple[Cell, Outcome]]]
"""Yields the outcome of every cell it is given, in any order."""


def compose_cells(
    context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> list[Cell]:
    """The cells that Hydra's sweeper asks for, numbered from `first`."""
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


def run_cell(cell: Cell, singletons: dict[Any, Any] | None = None) -> Outcome:
    """Run a cell in this process, wherever that is; no exception of the job gets out.

    Args:
        singletons: `Singleton.get_state()` of the process that composed the cell, if that is another one.
    """
    if singletons is not None:
        Singleton.set_state(singletons)
        setup_globals()
        register_all()
    try:
        done = run_job(run_composed, cell.config, "hydra.sweep.dir", "hydra.sweep.subdir", cell.context)
    except (OSError, HydraException, OmegaConfBaseException) as error:  # of what Hydra does before and after the job
        return failed(error)
    value = done._return_value  # the property would raise what the job raised
    if done.status is JobStatus.FAILED:
        return failed(value)
    return Outcome(value.top1, value.text) if value else Outcome()  # of a process that only helped


def failed(error: BaseException) -> Outcome:
    """The outcome of a cell that raised `error`."""
    line, known = describe_error(error)
    return Outcome(error=line, details="" if known else "".join(traceback.format_exception(error)))
