"""A description of this machine: its processor, which exact convolution it runs, and if a slow one, why."""

import os
import platform
from pathlib import Path

import llvmlite.binding as llvm
import torch

from bnrecal.nbsmt.engines import choose_engine
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, onednn_exactness, onednn_trial
from bnrecal.nbsmt.engines.engine import ConvLayer
from bnrecal.nbsmt.engines.torch_engine import TorchEngine
from bnrecal.nbsmt.geometry import pointwise
from bnrecal.nbsmt.policies.custom import is_custom
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

# What 8-bit products can come from, the best last, by the names that LLVM has for them.
INSTRUCTIONS = ("neon", "dotprod", "i8mm", "sve", "sse4.1", "avx2", "avxvnni", "avx512bw", "avx512vnni", "amx-int8")


def processor_name() -> str:
    """Return the processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def instruction_set() -> str:
    """Return the processor's instructions for 8-bit products, and what the environment caps oneDNN at."""
    present = llvm.get_host_cpu_features()
    names = "+".join(name for name in INSTRUCTIONS if present.get(name)) or platform.machine()
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{names} (oneDNN capped at {cap})" if cap else names


def describe_engine(device: torch.device, spec: SmtSpec | None = None) -> str:
    """Return one line: what does the sums of a usual layer on this device, and if it is slow, why.

    Args:
        spec: the machine emulated; None: the usual one at 4 threads.
    """
    spec = spec or SmtSpec(4)
    if spec.threads == 1:  # nothing collides: the rest of the machine does not matter
        spec = SmtSpec()
    if is_custom(spec.policy) or not spec.saturate:
        layer = PreparedConv2d(torch.arange(-128, 128).to(torch.int8).view(4, 4, 4, 4), spec, device=device)
        reason = "a policy given as tables" if is_custom(spec.policy) else "without saturation operands leave 8 bits"
        return f"{layer.engine_name} (slow: {reason})"
    if device.type == "cuda":
        usual = ConvLayer(torch.ones(4, 4, 3, 3, dtype=torch.int8), spec, pointwise(1), device)
        engine = choose_engine(usual)
        slow = " (slow: no exact 8-bit convolution on this device)"
        return engine.names[0] + (slow if engine is TorchEngine else "")
    if not kernels_compile():
        return "float32 (slow: numba is switched off or cannot compile here)"
    exactness = onednn_exactness()
    if exactness is Exactness.FULL:
        return "onednn-int8"
    if exactness is Exactness.PAIRED:
        return "onednn-int8, in pairs of 16 bits"
    return f"float32 (slower: {onednn_trial()[1]})"
