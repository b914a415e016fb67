"""Commands that torchrun or Slurm started as several processes."""

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def on_all_processes(gpus: int, work: Callable[[], T]) -> T | None:
    """Return work(), done with the help of the processes started beside this one; None on these.

    Args:
        gpus: as configured; `evaluation.process_group.find_place` explains it.
    """
    if gpus == 1 and os.environ.get("WORLD_SIZE", "1") == "1":
        return work()
    from bnrecal.evaluation.process_group import share  # (imports torch)

    return share(gpus, work)
