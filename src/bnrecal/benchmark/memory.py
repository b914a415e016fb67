"""Peak memory of a computation."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from bnrecal.memory import MMAP_THRESHOLD, mallopt

# glibc keeps freed memory below a threshold that grows with use. Set, it stays, and larger blocks go back at once:
# what is resident then is what is in use.
LARGE = 131072  # bytes


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
    mallopt(MMAP_THRESHOLD, LARGE)
    _trim()
    before = _kilobytes(status, "VmRSS")
    call = make()
    gc.collect()
    _trim()  # what making left behind would count as in use
    try:
        reset.write_text("5")  # the peak starts again from now
    except OSError:
        return None
    _twice(call)
    return 1024.0 * (_kilobytes(status, "VmHWM") - before)


def page_faults(call: Callable[[], object]) -> int | None:
    """Pages that the system maps into this process in a call after two others; None where it does not count them.

    The heap still grows in the second call, between what the first left: packed weights, compiled kernels.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    with torch.inference_mode():
        call()
        call()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _twice(call: Callable[[], object]) -> None:
    with torch.inference_mode():
        call()
        call()


def _kilobytes(status: Path, field: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def _trim() -> None:
    """Give freed memory back to the system; glibc can, other C libraries are left alone."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
