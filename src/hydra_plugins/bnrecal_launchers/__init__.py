"""bnrecal's launchers, here because Hydra takes launchers from this namespace package alone.

Hydra imports this module in every program of the environment: it stays light, and the work is done by
`bnrecal.commands.parallel`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from bnrecal.commands.parallel.sweep import Runner


class _CellLauncher(Launcher):
    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:  # noqa: ARG002
        self.context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from bnrecal.commands.parallel.sweep import launch

        return launch(self.runner(), self.context, self.config, job_overrides, initial_job_idx)

    def runner(self) -> "Runner":
        raise NotImplementedError


class SerialLauncher(_CellLauncher):
    """One cell after the other: what `-m` does without `+launch`."""

    def runner(self) -> "Runner":
        from bnrecal.commands.parallel.sweep import run_serially

        return run_serially


class JoblibLauncher(_CellLauncher):
    """`+launch=joblib`: `n_jobs` cells at once, each in a process of this machine."""

    def runner(self) -> "Runner":
        from bnrecal.commands.parallel.sweep import on_this_machine

        return on_this_machine(**self.settings)


class SlurmLauncher(_CellLauncher):
    """`+launch=slurm` and `+launch=slurm_cpu`: each cell a job of a Slurm cluster."""

    def runner(self) -> "Runner":
        from bnrecal.commands.parallel.slurm import on_slurm

        return on_slurm(self.settings)


@dataclass
class JoblibLauncherConfig:
    """Settings `hydra.launcher.*` of `+launch=joblib`."""

    _target_: str = "hydra_plugins.bnrecal_launchers.JoblibLauncher"
    n_jobs: int = 2  # cells at once


ConfigStore.instance().store(group="hydra/launcher", name="bnrecal_joblib", node=JoblibLauncherConfig)
