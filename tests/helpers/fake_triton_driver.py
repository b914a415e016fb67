"""A driver for Triton that launches nothing and counts: Triton's own JIT, tuner and assembler run before it.

Use inside `fake_cuda.simulated(kernels=False)`, so that tensors say cuda:N.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import triton.compiler
import triton.testing
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime.driver import driver

from bnrecal.nbsmt.engines.gpu import choose, tuning
from bnrecal.nbsmt.engines.gpu.kernels import conv_end, convolve, expand, trial

KERNELS = (trial.trial, expand.quantize_expand, convolve.conv_int8, convolve.depthwise, conv_end.end_values)
# Triton 3.2 takes a binary's handles and costs without the most threads that it runs with.
_ASKS_FOR_THREADS = "n_max_threads" in CompiledKernel._init_handles.__code__.co_names
# Bytes of shared memory that a block can have, by compute capability.
SHARED_MEMORY = {(7, 5): 65_536, (8, 0): 166_912, (8, 9): 101_376, (9, 0): 232_448, (12, 0): 101_376}


@dataclass
class Seen:
    """What reached the driver, by the name of the kernel.

    Attributes:
        launches: kernels started, those that the tuner timed left out.
        variants: binaries loaded: one for each set of constants, types and tile.
        timed: pairs of a tile and a kind of layer that were timed.
    """

    launches: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    timed: int = 0


class _Utils:
    def __init__(self, seen: Seen, capability: tuple[int, int]) -> None:
        self.seen = seen
        self.capability = capability

    def get_device_properties(self, _: int) -> dict[str, int]:
        unused = dict.fromkeys(("sm_clock_rate", "mem_clock_rate", "mem_bus_width"), 0)
        shared = SHARED_MEMORY[self.capability]
        return {"max_shared_mem": shared, "multiprocessor_count": 132, "warpSize": 32, **unused}

    def load_binary(self, name: str, *_: Any) -> tuple[int, ...]:
        self.seen.variants[name] += 1
        module, function, registers, spills, threads = 1, 1, 128, 0, 1024
        loaded = (module, function, registers, spills, threads)
        return loaded if _ASKS_FOR_THREADS else loaded[:-1]

    def unload_module(self, _: Any) -> None: ...


class _Driver:
    """What Triton asks of a driver."""

    def __init__(self, seen: Seen, capability: tuple[int, int]) -> None:
        self.seen = seen
        self.capability = capability
        self.utils = _Utils(seen, capability)
        self.timing = False

    def time_one(self, call: Callable[[], object], **_: Any) -> float:
        """Stands for `triton.testing.do_bench`."""
        self.seen.timed += 1
        self.timing = True
        try:
            call()
        finally:
            self.timing = False
        return 1.0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 10 * self.capability[0] + self.capability[1], 32)

    def get_current_device(self) -> int:
        return torch.cuda.current_device()

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    def launcher_cls(self, source: Any, _: Any) -> Callable[..., None]:
        """Takes the grid and what is launched; refuses a grid that CUDA has not."""
        name = source.fn.__name__

        def start(x: int, y: int, z: int, *_: Any, **__: Any) -> None:
            assert 0 < x < 2**31, (name, x)
            assert 0 < y < 2**16, (name, y)
            assert 0 < z < 2**16, (name, z)
            assert x * y * z < 2**31, (name, x, y, z)
            if not self.timing:
                self.seen.launches[name] += 1

        return start


@contextmanager
def counting(folder: Path, capability: tuple[int, int] = (9, 0)) -> Iterator[Seen]:
    """Triton with such a driver; nothing that it compiled before, or will after, is known to the other.

    Args:
        folder: where compiled kernels and chosen tiles are kept.
    """
    seen = Seen()
    fake = _Driver(seen, capability)
    _forget_kernels()
    kept = "_active" if "_active" in vars(driver) else "active"  # resetting would look for a real driver
    before = vars(driver)[kept]
    driver.set_active(fake)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.testing, "do_bench", fake.time_one)
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        patch.setenv("BNRECAL_CACHE", str(folder / "bnrecal"))
        patch.setattr(choose, "triton_trouble", lambda _: "")  # the trial's kernel writes nothing
        try:
            yield seen
        finally:
            _forget_kernels()
            gc.collect()  # compiled kernels ask the driver to unload them when they go
            setattr(driver, kept, before)


class _Uncompiled:
    """Stands for a `CompiledKernel`: what Triton's JIT asks of one."""

    def __init__(self, source: Any, *_: Any, **__: Any) -> None:
        fake: Any = driver.active
        fake.utils.load_binary(source.fn.__name__)
        self.run = fake.launcher_cls(source, None)
        self.function = None
        self.packed_metadata = None

    def launch_metadata(self, *_: Any) -> None: ...


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside `counting`, for counts alone: a variant is what Triton's JIT would compile, and is not compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.compiler, "compile", _Uncompiled)
        yield


def _forget_kernels() -> None:
    """Let go of what the kernels have compiled and of the tiles that were chosen."""
    tuning._store.cache_clear()
    for kernel in KERNELS:
        compiled = kernel.device_caches if hasattr(kernel, "device_caches") else kernel.cache  # its name in Triton 3.2
        compiled.clear()
