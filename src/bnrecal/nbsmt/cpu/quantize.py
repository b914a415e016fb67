"""Float32 activations to bytes, and from them the dense operands, in one pass over memory."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.cpu import sending
from bnrecal.nbsmt.cpu import vectors as v
from bnrecal.nbsmt.cpu.jobs import buffer, compile_kernel, compiled, copied, fields, run, scratch
from bnrecal.nbsmt.cpu.sending import TABLE_BYTES, Word
from bnrecal.nbsmt.operands import ACTIVATION, Operand
from bnrecal.nbsmt.spec import SmtSpec

BLOCK_BYTES = 16384  # quantized bytes a worker takes at a time: they stay in its first-level cache
SPARE_BYTES = 256
MANY = 1 << 40  # carray wants a length
JOB = fields(
    "source",  # float32 (pixels, groups, channels), or 0: the levels are there already
    "levels",  # uint8 (pixels, groups, channels)
    "target",  # uint8 (pixels, groups, operands * channels)
    "pixels",
    "groups",
    "channels",  # of one group
    "threads",  # of NB-SMT
    "operands",
    "table",
    "round_up",  # of r(a): 7 and 1 to half even, 0 and 0 down
    "round_odd",
    "block",  # pixels of a unit
    "order",  # uint32 (channels,): which channel takes each position, or 0: as they come; for one group
    "scratch",
    "scratch_bytes",  # of it for each worker: `sending`'s, one pixel's masks twice, one expanded pixel
    floats=("inverse", "lowest", "highest", "offset"),
)


class Quantizer:
    """The levels of a layer's input, and its dense operands in the order of `Split`."""

    def __init__(self, operands: tuple[Operand, ...], spec: SmtSpec, channels: int, groups: int) -> None:
        """For inputs of (N, groups * channels, H, W)."""
        self.operands, self.channels, self.groups = operands, channels, groups
        self.table = sending.table(operands)
        self.masks_bytes = 2 * channels + 64
        self.job = np.zeros((), JOB)
        half_even = spec.rounding == "half_even"
        per_worker = sending.SCRATCH_BYTES + self.masks_bytes + max(1, len(operands)) * channels + SPARE_BYTES
        for name, value in {
            "groups": groups,
            "channels": channels,
            "threads": spec.threads,
            "operands": len(operands),
            "table": self.table.ctypes.data,
            "round_up": 7 * half_even,
            "round_odd": half_even,
            "block": max(1, BLOCK_BYTES // (channels * groups)),
            "scratch_bytes": -(-per_worker // 64) * 64,
        }.items():
            self.job[name] = value

    def __call__(self, x: Tensor, x_scale: float, signed: bool, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Levels and dense operands of an input, both overwritten by the next call in this thread.

        Args:
            x: float32 (N, groups * channels, H, W), or uint8 or int8 levels of that shape.
            order: int64 (channels,), on the CPU: position i is taken by input channel order[i]; for one group alone.

        Returns:
            uint8 (N, groups * channels, H, W), signed levels as + 128, and uint8 (N, groups * len(operands) * channels,
            H, W), both channels-last. Where the operands are just the activations, both are the same.
        """
        images, _, height, width = x.shape
        job, pixels = copied(self.job), images * height * width
        levels = _channels_last("levels", images, self.groups * self.channels, height, width)
        if x.dtype == torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
            limits = (-128.0, 127.0, 128.0) if signed else (0.0, 255.0, 0.0)
            job["source"] = x.data_ptr()
            for name, value in zip(
                ("inverse", "lowest", "highest", "offset"), (inverse_scale(x_scale), *limits), strict=True
            ):
                job[name] = value
        else:
            levels.copy_(x.to(torch.int16) + 128 if signed else x)
        target = levels
        if self.expands:
            target = _channels_last("operands", images, len(self.operands) * levels.shape[1], height, width)
        elif not job["source"] and order is None:
            return levels, levels
        if order is not None:
            places = order.numpy().astype(np.uint32)
            job["order"] = places.ctypes.data
        job["pixels"], job["levels"], job["target"] = pixels, levels.data_ptr(), target.data_ptr()
        if not self.expands:
            job["operands"] = 0
        job["scratch"] = scratch("quantize", int(job["scratch_bytes"]))
        run(kernel(), job, -(-pixels // int(job["block"])))
        return levels, target

    @property
    def expands(self) -> bool:
        """Whether the dense operands are more than the activations."""
        return self.operands not in ((), (ACTIVATION,))


def _channels_last(name: str, images: int, channels: int, height: int, width: int) -> Tensor:
    held = buffer(name, images * channels * height * width)
    return held.view(images, height, width, channels).permute(0, 3, 1, 2)


@compiled
def _quantize(source: Word, target: Word, count: Word, job: Any, spare: Word) -> None:
    """Quantize `count` floats; `spare` is scratch of 256 bytes."""
    inverse, lowest, highest, offset = job.inverse, job.lowest, job.highest, job.offset
    i = Word(0)
    while i < count:
        if i + Word(64) > count:
            if count < Word(64):
                v.copy(spare, source, Word(4) * count)
                v.store(spare, v.quantize(spare, inverse, lowest, highest, offset))
                v.copy(target, spare, count)
                return
            i = count - Word(64)  # once more over some of the last vector
        v.store(target + i, v.quantize(source + Word(4) * i, inverse, lowest, highest, offset))
        i += Word(64)


@compiled
def _mark_active(levels: Word, masks: Word, channels: Word) -> None:
    """Masks of one pixel twice in a row, so that a partner's mask lies at a fixed distance."""
    for start in (masks, masks + channels):
        c = Word(0)
        while c < channels:
            v.store(start + c, v.nonzero(v.load(levels + c)))
            c += Word(64)


@compiled
def _expand_pixel(levels: Word, target: Word, job: Any, scratch: Word) -> None:
    """All operands of one pixel of one group: (channels,) to (operands * channels,), two and two alternating."""
    channels, masks = job.channels, scratch + Word(sending.SCRATCH_BYTES)
    part = channels // job.threads
    _mark_active(levels, masks, channels)
    c = Word(0)
    while c < channels:
        if c + Word(64) > channels and channels > Word(64):
            c = channels - Word(64)
        sending.write_values(v.load(levels + c), np.uint8(job.round_up), np.uint8(job.round_odd), scratch)
        own = masks + c
        u1, u2, u3 = v.load(own + part), v.load(own + part + part), v.load(own + part + part + part)
        sending.write_masks(u1, u2, u3, job.threads, scratch)
        operand, out, left = job.table, target, job.operands
        while left > Word(1):
            first, second = sending.sent(operand, scratch), sending.sent(operand + Word(TABLE_BYTES), scratch)
            v.store_zipped(out + c + c, first, second)
            operand += Word(2 * TABLE_BYTES)
            out += channels + channels
            left -= Word(2)
        if left:
            v.store(out + c, sending.sent(operand, scratch))
        c += Word(64)


@compiled
def _reorder(levels: Word, pixels: Word, job: Any, spare: Word) -> None:
    """Put the channels of these pixels in order; `spare` is scratch of one pixel."""
    order = carray(v.pointer(job.order), MANY, np.uint32)
    before = carray(v.pointer(spare), MANY, np.uint8)
    for _ in range(pixels):
        v.copy(spare, levels, job.channels)
        after = carray(v.pointer(levels), MANY, np.uint8)
        for c in range(job.channels):
            after[c] = before[order[c]]
        levels += job.channels


@compiled
def _work_on_block(job: Any, first: Word, last: Word, scratch: Word) -> None:
    """Pixels first..last-1."""
    values = job.groups * job.channels
    levels, count = job.levels + first * values, (last - first) * values
    spare = scratch + job.scratch_bytes - job.operands * job.channels - Word(SPARE_BYTES)
    if job.source:
        _quantize(job.source + Word(4) * first * values, levels, count, job, spare)
    if job.order:
        _reorder(levels, last - first, job, scratch + Word(sending.SCRATCH_BYTES))
    size = job.operands * job.channels
    if not size:
        return
    target = job.target + first * job.groups * size
    end = job.target + last * job.groups * size
    while target < end:
        # A vector may stick out of its operand into the next, written later, but never out of the block.
        if job.channels < Word(64) and target + size + Word(128) > end:
            _expand_pixel(levels, spare, job, scratch)
            v.copy(target, spare, size)
        else:
            _expand_pixel(levels, target, job, scratch)
        levels += job.channels
        target += size


def _make(sources: str) -> Any:
    def quantize_blocks(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        job = carray(address, 1, JOB)[0]
        scratch = job.scratch + v.claim(job.address + Word(16)) * job.scratch_bytes
        sending.clear(scratch)
        while True:
            first = v.claim(job.address + Word(8)) * job.block
            if first >= job.pixels:
                return
            _work_on_block(job, first, min(first + job.block, job.pixels), scratch)

    return quantize_blocks


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
