"""Memory that freed tensors leave behind: kept by commands, and by nobody who only imports."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bnrecal
from bnrecal import memory

# Page faults of one pass after others.
COUNTS = """
import sys
import torch
import bnrecal
from bnrecal.benchmark.memory import page_faults
from bnrecal.benchmark.networks import VARIANTS, build, random_images

print(bnrecal.keep_freed_memory() if sys.argv[2] == "keep" else False)
torch.set_num_threads(1)
images = random_images(4, 160, "cpu")
network = build("mobilenet_v2", VARIANTS[sys.argv[1]], images).network
print(page_faults(lambda: network(images)))
"""


def counted(variant: str, keep: str) -> tuple[str, int]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", COUNTS, variant, keep]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.usefixtures("several_processes")
@pytest.mark.skipif(sys.platform != "linux" or not memory.mallopt(memory.TOP_PAD, 128 << 10), reason="needs glibc")
@pytest.mark.parametrize("variant", ["float32", "4T"])
def test_a_later_pass_finds_its_memory_mapped(variant: str) -> None:
    kept, faults = counted(variant, "keep")
    assert kept == "True"
    assert faults < 1000


@pytest.mark.usefixtures("several_processes")
@pytest.mark.skipif(sys.platform != "linux" or not memory.mallopt(memory.TOP_PAD, 128 << 10), reason="needs glibc")
def test_without_it_memory_comes_and_goes() -> None:
    _, faults = counted("float32", "leave")
    assert faults > 1000


def test_what_the_environment_chose_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def note(parameter: int, _: int) -> bool:
        asked.append(parameter)
        return True

    monkeypatch.setattr(memory, "mallopt", note)
    for name in memory._OWN_CHOICE:
        monkeypatch.delenv(name, raising=False)
    assert memory.keep_freed_memory() is True
    assert asked == [memory.MMAP_THRESHOLD, memory.TRIM_THRESHOLD, memory.TOP_PAD]
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert bnrecal.keep_freed_memory() is False
    assert len(asked) == 3


def test_a_c_library_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert memory.mallopt(memory.TOP_PAD, 1) is False
    assert memory.keep_freed_memory() is False


MEMINFO = "MemTotal:       24576000 kB\nMemFree:          100000 kB\nMemAvailable:    8000000 kB\n"
STAT = "anon 500\ninactive_anon 5\ninactive_file 300\nactive_file 40\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"meminfo": MEMINFO}, 8_192_000_000),
        ({"meminfo": MEMINFO, "memory.max": "max\n", "memory.current": "10\n"}, 8_192_000_000),
        ({"meminfo": MEMINFO, "memory.max": "1000\n", "memory.current": "900\n", "memory.stat": STAT}, 400),
        ({"memory.max": "1000\n", "memory.current": "1900\n", "memory.stat": "anon 4\n"}, 0),
        ({"meminfo": "MemTotal: 4 kB\n"}, None),  # before Linux 3.14
        ({}, None),
    ],
)
def test_available_memory(
    files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available_memory() == expected
