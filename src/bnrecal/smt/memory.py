"""Peak memory of a computation."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch


def peak_memory(make: Callable[[], Callable[[], object]], device: str) -> float | None:
    """Bytes that what `make` returns holds, plus what calling it takes on top, at most.

    Peaks while making it (calibration, packing) do not count. On the CPU it is resident memory as Linux counts it,
    None elsewhere.
    """
    gc.collect()
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        call = make()
        torch.cuda.reset_peak_memory_stats()
        _twice(call)
        return float(torch.cuda.max_memory_allocated() - before)
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    _return_free_memory()
    before = _kilobytes(status, "VmRSS")
    call = make()
    gc.collect()
    _return_free_memory()
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


def _return_free_memory() -> None:
    """What making left behind and the C library keeps for later would count as in use."""
    try:
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        pass
