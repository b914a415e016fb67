"""Memory that freed tensors leave behind, kept for the next ones instead of given back to the system.

glibc gives a large block back when it is freed, and the system hands out the next one page by page, each zeroed and
mapped anew: some 30,000 page faults in one pass of MobileNet-v2 over 8 images, a third of its time (docs/results.md).
"""

import ctypes
import os
from pathlib import Path

# Parameters of glibc's mallopt(3), from its malloc.h.
TRIM_THRESHOLD = -1
TOP_PAD = -2
MMAP_THRESHOLD = -3

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # of a container, where it sees its own control group
_OWN_CHOICE = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors, so that the next ones find it mapped.

    The process then holds on to the most memory that it has used. Every `bnrecal` command does this when it starts;
    `import bnrecal` alone does not.

    Returns:
        Whether the C library does so from now on: False where it is not glibc, and where one of its environment
        variables (`MALLOC_TRIM_THRESHOLD_` and the like, `GLIBC_TUNABLES`) has already chosen.

    Examples:
        >>> import bnrecal
        >>> kept = bnrecal.keep_freed_memory()  # once, at the start of a script
        >>> kept in (True, False)
        True
    """
    if any(name in os.environ for name in _OWN_CHOICE):
        return False
    kept = mallopt(MMAP_THRESHOLD, 1 << 30)  # smaller blocks come from the heap, which stays
    kept &= mallopt(TRIM_THRESHOLD, 2**31 - 1)  # the heap's end is not given back
    return kept and mallopt(TOP_PAD, 64 << 20)  # it grows in steps of 64 MB


def mallopt(parameter: int, value: int) -> bool:
    """Set a parameter of glibc's allocator; return False where the C library knows none such."""
    try:
        function = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return False
    return bool(function(parameter, value))


def available_memory() -> int | None:
    """Return bytes that new processes may use: what Linux counts as available, and a control group leaves.

    None where neither is known (macOS, Windows).
    """
    found = [_available_of_machine(), _left_of_group()]
    known = [count for count in found if count is not None]
    return min(known) if known else None


def _available_of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    return None


def _left_of_group() -> int | None:
    """Return what the control group of a container leaves, with the file pages that it would drop first."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        files = _unused_files()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + files)


def _unused_files() -> int:
    for line in (_GROUP / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0
