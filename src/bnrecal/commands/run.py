"""`bnrecal key=value ...`: Hydra in, results out."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from bnrecal.commands.common import (
    config_dir,
    on_all_processes,
    one_line,
    one_line_errors,
    pass_errors_through,
    quoted_paths,
    register_all,
    tracebacks_wanted,
)
from bnrecal.commands.interrupt import raise_if_interrupted
from bnrecal.config import Config, parse
from bnrecal.errors import BnrecalError

log = logging.getLogger("bnrecal")

ERROR_FILE = "error.txt"
_failures: list[str] = []


def main() -> None:
    """A run or a sweep, as `sys.argv` says. Exits with 1 if a run, or a cell of a sweep, failed."""
    with one_line_errors():
        pass_errors_through()
        register_all()
        sys.argv[1:] = quoted_paths(sys.argv[1:])
        _hydra_main()
    if _failures:
        sys.exit("\n".join(f"bnrecal: {failure}" for failure in _failures))


@hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")
def _hydra_main(composed: DictConfig) -> float | None:
    """One job. An error is noted, in a sweep beside its cell, so that the other cells still run."""
    raise_if_interrupted()
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweeping = HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN
    (folder / ERROR_FILE).unlink(missing_ok=True)
    try:
        config = parse(composed)
        return on_all_processes(config.gpus, lambda: run_into(config, folder))
    except BnrecalError as error:
        if tracebacks_wanted():
            raise
        if sweeping:
            (folder / ERROR_FILE).write_text(f"{one_line(error)}\n")
            log.error("%s: %s", folder.name, one_line(error))
        else:
            _failures.append(one_line(error))
        return None


def run_into(config: Config, folder: Path) -> float:
    """Run an experiment unless `folder` already holds its result; print the summary and return its top-1."""
    # imported here, after the arguments were found good: torch and its company take seconds
    from bnrecal.experiment import cell
    from bnrecal.experiment.results import RESULT_FILE, summary

    done = cell.finished(config, folder)
    result = done or cell.run_into(config, folder)
    print(f"{summary(result, folder / RESULT_FILE)}{' (finished earlier)' if done else ''}")
    return float(result["top1"])


class SweepReport(Callback):
    """Says at the end of a sweep which cells failed, wherever their processes ran."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002
        """Note when the sweep began."""
        self.started = time.time()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Collect the errors that cells left since."""
        folder = Path(config.hydra.sweep.dir)
        errors = [path for path in sorted(folder.glob(f"**/{ERROR_FILE}")) if path.stat().st_mtime >= self.started - 1]
        _failures.extend(f"{path.parent.name} failed: {path.read_text().strip()}" for path in errors)
        print(f"sweep in {folder}; merge it with: bnrecal merge {folder}")
