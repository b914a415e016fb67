"""Peak memory of a computation."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch

# glibc keeps freed memory below a threshold that grows with use. Set, it stays, and larger blocks go back at once:
# what is resident then is what is in use.
M_MMAP_THRESHOLD = -3


def peak_memory(make: Callable[[], Callable[[], object]], device: str) -> float | None:
    """Bytes that what `make` returns holds, plus what calling it takes on top, at most.

    Peaks while making it (calibration, packing) do not count. On the CPU it is resident memory as Linux counts it,
    None elsewhere.
    """
    gc.collect()
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        call = make()
        torch.cuda.reset_peak_memory_stats(device)
        _twice(call)
        return float(torch.cuda.max_memory_allocated(device) - before)
    status = Path("/proc/self/status")
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    _c_library("mallopt", M_MMAP_THRESHOLD, 131072)
    _c_library("malloc_trim", 0)
    before = _kilobytes(status, "VmRSS")
    call = make()
    gc.collect()
    _c_library("malloc_trim", 0)  # what making left behind would count as in use
    try:
        reset.write_text("5")  # the peak starts again from now
    except OSError:
        return None
    _twice(call)
    return 1024.0 * (_kilobytes(status, "VmHWM") - before)


def _twice(call: Callable[[], object]) -> None:
    with torch.inference_mode():
        call()
        call()


def _kilobytes(status: Path, field: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def _c_library(function: str, *arguments: int) -> None:
    """Call glibc; nothing where it is another."""
    try:
        import ctypes

        getattr(ctypes.CDLL(None), function)(*arguments)
    except (OSError, AttributeError, TypeError):
        pass
