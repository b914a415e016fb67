"""`bnrecal key=value ...`: one experiment, or a sweep of them. Hydra in, results out."""

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bnrecal.commands.cli.compose import config_dir, quoted_paths, register_all
from bnrecal.commands.cli.errors import describe_error, failures, pass_errors_through, tracebacks_wanted
from bnrecal.commands.cli.ranks import on_all_processes
from bnrecal.config import Config, parse
from bnrecal.errors import BnrecalError

if TYPE_CHECKING:
    from bnrecal.experiment.cell import CellResult

_HYDRAS_OWN = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_OURS = "hydra_plugins.bnrecal_launchers.SerialLauncher"

_summaries: list[str] = []  # of single experiments: printed when Hydra is through, which words errors itself


def main() -> None:
    """Run one experiment or a sweep, as `sys.argv` says. Those that failed are in `failures`."""
    pass_errors_through()
    register_all()
    sys.argv[1:] = quoted_paths(sys.argv[1:])
    try:
        _hydra_main()
    except OSError as error:  # of what Hydra writes before the experiment, which does not say where
        if error.errno != errno.ENOSPC or error.filename:
            raise
        raise BnrecalError(f"{error.strerror} where the output goes: make room, or choose another folder") from error
    for text in _summaries:
        print(text)


@hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")
def _hydra_main(composed: DictConfig) -> float | None:
    """Run a single experiment. The launchers of sweeps call `run_composed` themselves."""
    try:
        done = run_composed(composed)
    except (BnrecalError, OSError, HydraException, OmegaConfBaseException) as error:
        if tracebacks_wanted():
            raise
        failures.append(describe_error(error)[0])  # raised, Hydra would add lines of its own
        return None
    if done is None:  # of a process that only helps
        return None
    _summaries.append(done.text)
    return done.result["top1"]


def run_composed(composed: DictConfig) -> "CellResult | None":
    """Run what Hydra composed, into the folder that Hydra made; None on processes that only help."""
    config = parse(composed)
    folder = Path(HydraConfig.get().runtime.output_dir)
    return on_all_processes(config.gpus, lambda: _run_into(config, folder))


def _run_into(config: Config, folder: Path) -> "CellResult":
    """Run an experiment unless `folder` already holds all of its result."""
    # imported here, after the arguments were found good: torch and its company take seconds
    from bnrecal.experiment import cell

    return cell.run_into(config, folder)


def finished_earlier(config: Config, folder: Path) -> "CellResult | None":
    """Return the result of just this experiment that `folder` holds, None if there is none."""
    if not config.resume or not folder.is_dir():
        return None
    from bnrecal.experiment import cell

    return cell.finished(config, folder)


class SweepReport(Callback):
    """Callback that puts bnrecal's launcher in the place of Hydra's default, and says at the end where the sweep is."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Replace Hydra's default launcher; another one that the user chose stays."""
        if config.hydra.launcher._target_ == _HYDRAS_OWN:
            config.hydra.launcher._target_ = _OURS

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Say how to go on."""
        folder = Path(config.hydra.sweep.dir)
        print(f"sweep in {folder}; merge it with: bnrecal merge {folder}")
