"""New processes that have simulated CUDA devices, as those of `bnrecal bench` would find the GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext
from types import SimpleNamespace
from typing import Any

from helpers.fake_cuda import simulated


class SimulatedContext:
    """A `multiprocessing` context that spawns; its processes have so many simulated devices."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.spawn = SpawnContext()
        self.Pipe = self.spawn.Pipe

    def Process(self, target: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Make a process, as multiprocessing does."""
        return self.spawn.Process(target=in_simulation, args=(self.count, target, *args))

    @contextmanager
    def Pool(self, processes: int) -> Iterator[Any]:
        """Make a pool that applies functions."""
        with self.spawn.Pool(processes) as pool:
            yield SimpleNamespace(apply=partial(_apply, pool, self.count))


def _apply(pool: Any, count: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return pool.apply(in_simulation, (count, function, *args))


def in_simulation(count: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function where there are so many simulated devices."""
    with simulated(count):
        return function(*args)
