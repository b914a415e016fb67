"""One job of the plain command: an experiment, or its result from an earlier time."""

from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bnrecal.commands.common import on_all_processes
from bnrecal.config import Config, parse


@dataclass(frozen=True)
class Done:
    """A finished experiment: top-1 in %, and the summary for the terminal."""

    top1: float
    text: str


def run_composed(composed: DictConfig) -> Done | None:
    """The task function: run what Hydra composed, into the folder that Hydra made; None on processes that only help."""
    config, folder = parse(composed), Path(HydraConfig.get().runtime.output_dir)
    return on_all_processes(config.gpus, lambda: run_into(config, folder))


def run_into(config: Config, folder: Path) -> Done:
    """Run an experiment unless `folder` already holds all of its result."""
    # imported here, after the arguments were found good: torch and its company take seconds
    from bnrecal.experiment import cell
    from bnrecal.experiment.results import RESULT_FILE, summary

    found = finished_earlier(config, folder)
    if found is not None:
        return found
    result = cell.run_into(config, folder)
    return Done(float(result["top1"]), summary(result, folder / RESULT_FILE))


def finished_earlier(config: Config, folder: Path) -> Done | None:
    """The result of just this experiment that `folder` holds.

    Raises:
        BnrecalError: if the experiment's network or images cannot be had.
    """
    if not config.resume or not folder.is_dir():
        return None
    from bnrecal.experiment import cell
    from bnrecal.experiment.results import RESULT_FILE, summary

    result = cell.finished(config, folder)
    if result is None:
        return None
    return Done(float(result["top1"]), f"{summary(result, folder / RESULT_FILE)} (finished earlier)")
