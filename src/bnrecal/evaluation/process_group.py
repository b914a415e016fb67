"""One run over the processes that `torchrun` or Slurm started, on one machine or several.

Rank 0 leads: it runs the command as if it were alone, and sends the others functions to compute their share of. So
calibration and recalibration happen once, and every rank evaluates the very same networks.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from bnrecal.errors import BnrecalError
from bnrecal.evaluation.ranks import call, pickled

R = TypeVar("R")
PATIENCE = timedelta(days=7)  # followers wait while rank 0 calibrates; a dead rank is noticed by its closed connection


@dataclass(frozen=True)
class Place:
    """This process among those that share a run.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int
    world: int


_joined: Place | None = None


def world() -> int:
    """Return how many processes share this run; 1 outside `share`."""
    return _joined.world if _joined else 1


def find_place(gpus: int) -> Place | None:
    """Find this process's place among those that torchrun or Slurm started, None if it was started alone.

    Args:
        gpus: as configured; 1 under torchrun means all of its processes, under Slurm separate runs.

    Raises:
        BnrecalError: if they are not as many as `gpus`.
    """
    environment = os.environ
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        started_by = "torchrun"
        place = Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and gpus > 1:
        started_by = "Slurm"
        place = Place(int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"]))
        environment.setdefault("LOCAL_RANK", environment["SLURM_LOCALID"])
    else:
        return None
    if gpus not in (1, place.world):
        raise BnrecalError(f"gpus={gpus}, but {started_by} started {place.world} processes: set gpus={place.world}")
    return place


def share(gpus: int, work: Callable[[], R]) -> R | None:
    """Return work(), within which `on_every_rank` reaches every process of this run; None on all but rank 0.

    The other ranks only help. Once any process dies, the others end within seconds, with one line.
    """
    global _joined  # noqa: PLW0603 (one group a process, as in torch.distributed)
    place = find_place(gpus)
    if place is None or _joined:
        return work()
    _connect(place)
    watch = _Watch(place)
    _joined = place
    try:
        if place.rank == 0:
            return _lead(work)
        _follow(place)
        return None
    except KeyboardInterrupt:  # the others see the connection close
        sys.stderr.write("bnrecal: interrupted; what was finished is kept\n" if place.rank == 0 else "")
        sys.stderr.flush()
        os._exit(130)
    finally:
        _joined = None
        watch.dismiss()
        dist.destroy_process_group()


def _lead(work: Callable[[], R]) -> R:
    try:
        return work()
    finally:
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            dist.broadcast_object_list([None], src=0)


def on_every_rank(function: Callable[..., R], *args: Any) -> list[R]:
    """Return [function(rank, world, *args) for each rank]; called by rank 0 within `share`.

    Raises:
        BnrecalError: as the lowest rank that failed raised it; if something cannot be pickled.
    """
    assert _joined is not None
    task = (function, pickled(args))
    dist.broadcast_object_list([task], src=0)
    return _compute(_joined, *task)


def _follow(place: Place) -> None:
    """Compute what rank 0 sends until it sends nothing more."""
    while True:
        received: list[Any] = [None]
        dist.broadcast_object_list(received, src=0)
        if received[0] is None:
            return
        with suppress(BnrecalError):  # rank 0 reports it
            _compute(place, *received[0])


def _compute(place: Place, function: Callable[..., Any], args: bytes) -> list[Any]:
    """Compute this rank's share; return on rank 0 those of all ranks, on the others nothing."""
    try:
        own = (True, call(function, args, place.rank, place.world))
    except BnrecalError as error:
        own = (False, str(error))
    if place.rank:
        dist.gather_object(own, None, dst=0)
        return []
    shares: list[Any] = [None] * place.world
    dist.gather_object(own, shares, dst=0)
    for fine, value in shares:
        if not fine:
            raise BnrecalError(value)
    return [value for _, value in shares]


def _connect(place: Place) -> None:
    if "MASTER_ADDR" not in os.environ:  # Slurm
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
        nodes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        os.environ["MASTER_ADDR"] = nodes[0]
        os.environ["MASTER_PORT"] = str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000)
    dist.init_process_group("gloo", rank=place.rank, world_size=place.world, timeout=PATIENCE)


class _Watch:
    """Watches the other ranks (a follower: rank 0). If one disconnects without saying goodbye, this process ends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.others = [0] if place.rank else list(range(1, place.world))
        self.group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        self.threads = [threading.Thread(target=self._wait, args=(rank,), daemon=True) for rank in self.others]
        for thread in self.threads:
            thread.start()

    def dismiss(self) -> None:
        """Say goodbye to the other ranks, and wait for theirs."""
        for rank in self.others:
            with suppress(RuntimeError):  # gone already, as `_wait` has seen too
                dist.send(torch.zeros(1), rank, group=self.group)
        for thread in self.threads:
            thread.join()

    def _wait(self, rank: int) -> None:
        word: Tensor = torch.zeros(1)
        try:
            dist.recv(word, rank, group=self.group)
        except RuntimeError:
            if self.place.rank == 0:
                sys.stderr.write(f"bnrecal: the process of rank {rank} died; what was finished is kept\n")
                sys.stderr.flush()
            os._exit(1)
