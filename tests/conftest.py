"""Every test process keeps its caches apart from the user's."""

import ctypes
import gc
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from helpers import fork_server
from hypothesis import settings

settings.register_profile("bnrecal", derandomize=True, deadline=None)
settings.load_profile("bnrecal")

MUCH = 100 * 2**20  # bytes that a test may leave to the next


def pytest_configure(config: pytest.Config) -> None:
    """Let the server of forks import with the filters of warnings that pytest was given."""
    os.environ[fork_server.WARNINGS] = " ".join(config.getoption("pythonwarnings") or [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests last, in the part of all tests that each of xdist's processes starts with.

    Tests that run alone follow a quarter of the quick ones.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    kinds: dict[str, list[pytest.Item]] = {"quick": [], "alone": [], "slow": []}
    for item in items:
        kinds[_kind(item)].append(item)
    ordered = []
    for part in range(processes):
        slow = _share(kinds["slow"], part, processes)
        # One process has all of these, so that the others need not wait for it: early, because test processes grow; not
        # first, because earlier tests compile the kernels that the processes of these load.
        alone = kinds["alone"] if part == 0 else []
        wanted = len(_share(items, part, processes)) - len(alone) - len(slow)
        quick = [kinds["quick"].pop(0) for _ in range(min(wanted, len(kinds["quick"])))]
        early = len(quick) // 4
        ordered += [*quick[:early], *alone, *quick[early:], *slow]
    items[:] = [*ordered, *kinds["quick"]]


def _kind(item: pytest.Item) -> str:
    """Return "alone" for a test that none of its kind may run beside, "slow" for others marked so, else "quick"."""
    if isinstance(item, pytest.Function) and "several_processes" in item.fixturenames:
        return "alone"
    return "slow" if item.get_closest_marker("slow") else "quick"


def _share(items: list[pytest.Item], part: int, processes: int) -> list[pytest.Item]:
    """Return a part of a list, as xdist cuts it."""
    return items[len(items) * part // processes : len(items) * (part + 1) // processes]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Make xdist's processes forks of the server of forks: most of their memory, which is torch's, they share."""
    if fork_server.FORKS:
        os.environ[fork_server.SOCKET] = fork_server.server()
        for spec in specs:
            spec.python = shlex.join([sys.executable, *fork_server.as_fork()])


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    os.environ["BNRECAL_CACHE"] = str(cache)
    drawn = _shared(tmp_path_factory) / "drawn"
    drawn.mkdir(exist_ok=True)
    (cache / "glyphs").symlink_to(drawn)  # the same images for all: ten seconds of drawing
    os.environ.pop("HYDRA_FULL_ERROR", None)
    os.environ["PYTHONPATH"] = fork_server.with_tests(os.environ.get("PYTHONPATH", ""))


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all of xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def several_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let one test at a time take memory for several: for processes that load torch themselves, or in its own."""
    with FileLock(_shared(tmp_path_factory) / "several"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _memory_given_back() -> Iterator[None]:
    """Give memory back to the system after each file of tests: glibc keeps what networks took, once it is told to."""
    yield
    _give_back()


@pytest.fixture(autouse=True)
def _much_memory_given_back() -> Iterator[None]:
    """Give memory back at once after a test that took much."""
    before = _resident()
    yield
    if _resident() > before + MUCH:
        _give_back()


def _give_back() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc
        trim(0)


def _resident() -> int:
    """Return the bytes of this process's memory; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
