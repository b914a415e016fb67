"""`bnrecal key=value ...`: Hydra in, results out."""

import errno
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bnrecal.commands.common import (
    config_dir,
    describe_error,
    one_line_errors,
    pass_errors_through,
    quoted_paths,
    register_all,
    tracebacks_wanted,
)
from bnrecal.commands.job import run_composed
from bnrecal.commands.launchers.base import failures
from bnrecal.errors import BnrecalError

_HYDRAS_OWN = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_OURS = "hydra_plugins.bnrecal_launchers.SerialLauncher"

_summaries: list[str] = []  # of single runs: printed when Hydra is through, which words the errors of its job itself


def main() -> None:
    """A run or a sweep, as `sys.argv` says. Exits with 1 if a run, or a cell of a sweep, failed."""
    with one_line_errors():
        pass_errors_through()
        register_all()
        sys.argv[1:] = quoted_paths(sys.argv[1:])
        try:
            _hydra_main()
        except OSError as error:  # of what Hydra writes before the job, which does not say where
            if error.errno != errno.ENOSPC or error.filename:
                raise
            raise BnrecalError(
                f"{error.strerror} where the output goes: make room, or choose another folder"
            ) from error
        for text in _summaries:
            print(text)
    if failures:
        sys.exit("\n".join(f"bnrecal: {failure}" for failure in failures))


@hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")
def _hydra_main(composed: DictConfig) -> float | None:
    """A single run. bnrecal's launchers call `run_composed` themselves."""
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
    return done.top1


class SweepReport(Callback):
    """Puts bnrecal's launcher in the place of Hydra's default, and says at the end where the sweep is."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Another launcher that the user chose stays."""
        if config.hydra.launcher._target_ == _HYDRAS_OWN:
            config.hydra.launcher._target_ = _OURS

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Say how to go on."""
        folder = Path(config.hydra.sweep.dir)
        print(f"sweep in {folder}; merge it with: bnrecal merge {folder}")
