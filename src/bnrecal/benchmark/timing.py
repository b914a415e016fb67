"""Times of several computations side by side."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for repeat in range(repeats + 1):  # the first is for packing and warm caches
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextmanager
def one_worker() -> Iterator[None]:
    """Compute on one CPU thread for the length of a block."""
    workers = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(workers)


def on_one_worker(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The shortest processor time of each, in seconds: other programs add to it less than to the time that passes."""
    shortest = dict.fromkeys(calls, math.inf)
    with one_worker(), torch.inference_mode():
        for _ in range(repeats + 1):
            for name, call in calls.items():
                start = time.thread_time()
                call()
                shortest[name] = min(shortest[name], time.thread_time() - start)
    return shortest
