"""Quantize and expand float32 activations in one pass, on as many threads as torch uses."""

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.cpu import kernels
from bnrecal.nbsmt.cpu.kernels import Job
from bnrecal.nbsmt.cpu.team import run_on_workers
from bnrecal.nbsmt.expansion import Expansion
from bnrecal.nbsmt.spec import SmtSpec

BLOCK_BYTES = 16384  # quantized bytes a worker takes at a time: they stay in its first-level cache


class FusedExpansion:
    """`expand_activations(quantize_activation(x))` for one layer, into a buffer that all layers of a thread share."""

    def __init__(self, expansion: Expansion, spec: SmtSpec, groups: int) -> None:
        """For x of (N, groups * expansion.channels, H, W)."""
        self.width, channels = groups * expansion.width, expansion.channels
        places = list(expansion.places())
        half_even = spec.rounding == "half_even"
        self.block = max(1, BLOCK_BYTES // (channels * groups))
        aside = kernels.aside_offset(channels, expansion.width)
        picks = [aside + s * channels + int(c) for s, (_, chosen) in enumerate(expansion.picked) for c in chosen]
        self.picks = np.array(picks + [0] * expansion.padding, np.uint32)  # scratch begins with a zero
        self.job = np.zeros(kernels.JOB_WORDS, np.uint64)
        self.job[Job.GROUPS], self.job[Job.CHANNELS] = groups, channels
        self.job[Job.THREADS], self.job[Job.OPERANDS] = spec.threads, len(places)
        self.job[Job.WHOLE], self.job[Job.WIDTH] = len(expansion.whole), expansion.width
        self.job[Job.ASIDE] = aside
        self.job[Job.ROUND_UP], self.job[Job.ROUND_ODD] = 7 * half_even, half_even
        self.job[Job.BLOCK] = self.block
        self.job[Job.SCRATCH_BYTES] = kernels.scratch_bytes(
            channels, groups, expansion.width, len(expansion.picked), self.block
        )
        for s, (operand, *_) in enumerate(places):
            table = [*operand.values, kernels.ANY + operand.pattern, kernels.TWO + operand.pattern]
            self.job[Job.TABLE + 5 * s : Job.TABLE + 5 * s + 5] = [64 * vector for vector in table]

    def __call__(self, x: Tensor, x_scale: float, signed: bool = False) -> Tensor:
        """float32 (N, C, H, W) to uint8 (N, groups * width, H, W), channels-last; signed values as + 128.

        The result is overwritten by the next call in this thread.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        images, _, height, width = x.shape
        workers = torch.get_num_threads()
        target = _buffer("target", images * height * width * self.width)
        job = self.job.copy()
        job[Job.SOURCE], job[Job.TARGET] = x.data_ptr(), target.data_ptr()
        job[Job.PIXELS] = images * height * width
        job[Job.SCRATCH] = _buffer("scratch", workers * int(job[Job.SCRATCH_BYTES])).data_ptr()
        job[Job.ADDRESS], job[Job.PICKS] = job.ctypes.data, self.picks.ctypes.data
        limits = (-128.0, 127.0, 128.0) if signed else (0.0, 255.0, 0.0)
        job.view(np.float32)[2 * Job.SCALE : 2 * Job.SCALE + 4] = (inverse_scale(x_scale), *limits)
        _run(job, workers)
        return target.view(images, height, width, -1).permute(0, 3, 1, 2)


def fused_expansion(expansion: Expansion, spec: SmtSpec, groups: int) -> FusedExpansion | None:
    """None where numba cannot compile: plain torch does the same, slower."""
    return FusedExpansion(expansion, spec, groups) if kernels.worker() else None


_local = threading.local()


def _buffer(name: str, size: int) -> Tensor:
    """uint8 (size,) of this thread, kept: fresh pages cost more than what is written to them."""
    held: Tensor | None = getattr(_local, name, None)
    if held is None or held.numel() < size:
        held = torch.empty(size, dtype=torch.uint8)
        setattr(_local, name, held)
    return held[:size]


def _run(job: "np.ndarray[Any, np.dtype[np.uint64]]", workers: int) -> None:
    blocks = -(-int(job[Job.PIXELS]) // int(job[Job.BLOCK]))
    work = kernels.worker()
    assert work is not None  # `fused_expansion` checked
    run_on_workers(work, job.ctypes.data, min(workers, blocks))
