"""What this machine is, which exact convolution it runs, and why a slow one if it does."""

import os
import platform
from pathlib import Path

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import torch

from bnrecal.nbsmt.cpu.conv import kernels_compile
from bnrecal.nbsmt.cpu.onednn import Exactness, onednn_exactness, onednn_trial
from bnrecal.nbsmt.cuda.choose import choose_cuda
from bnrecal.nbsmt.spec import SmtSpec

# What 8-bit products can come from, the best last, by the names that LLVM has for them.
INSTRUCTIONS = ("neon", "dotprod", "i8mm", "sve", "sse4.1", "avx2", "avxvnni", "avx512bw", "avx512vnni", "amx-int8")


def processor_name() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def instruction_set() -> str:
    """The processor's instructions for 8-bit products, and what the environment caps oneDNN at."""
    present = llvm.get_host_cpu_features()
    found = "+".join(name for name in INSTRUCTIONS if present.get(name)) or platform.machine()
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{found} (oneDNN capped at {cap})" if cap else found


def describe_backend(device: torch.device) -> str:
    """One line: what does the sums of a usual layer on this device, and when it is slow, why."""
    if device.type == "cuda":
        layer = torch.ones(4, 4, 3, 3, dtype=torch.int8)
        return choose_cuda(layer, SmtSpec(4), 1, device) or "float32 (slow: no exact 8-bit convolution on this device)"
    if not kernels_compile():
        return "float32 (slow: numba is switched off or cannot compile here)"
    exactness = onednn_exactness()
    if exactness is Exactness.FULL:
        return "onednn-int8"
    if exactness is Exactness.PAIRED:
        return "onednn-int8, in pairs of 16 bits"
    return f"float32 (slower: {onednn_trial()[1]})"
