"""Float32 activations to bytes, and from them the dense operands, in one pass over memory."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.decompose.operands import ACTIVATION, Operand
from bnrecal.nbsmt.engines.cpu.kernels import operand_select
from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import TABLE_BYTES, u64
from bnrecal.nbsmt.engines.cpu.kernels.runtime import (
    args_dtype,
    buffer,
    compile_kernel,
    compiled,
    copy_args,
    run_kernel,
    scratch,
)
from bnrecal.nbsmt.spec import SmtSpec

BLOCK_BYTES = 16384  # quantized bytes a worker takes at a time: they stay in its first-level cache
SPARE_BYTES = 256
MANY = 1 << 40  # carray wants a length
ARGS = args_dtype(
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
    "scratch_bytes",  # of it for each worker: `operand_select`'s, one pixel's masks twice, one expanded pixel
    floats=("inverse", "lowest", "highest", "offset"),
)


class Quantizer:
    """The levels of a layer's input, and its dense operands in the order of `DenseSparse`."""

    def __init__(self, operands: tuple[Operand, ...], spec: SmtSpec, channels: int, groups: int) -> None:
        """For inputs of (N, groups * channels, H, W)."""
        self.operands, self.channels, self.groups = operands, channels, groups
        self.table = operand_select.operand_table(operands)
        self.masks_bytes = 2 * channels + 64
        self.args = np.zeros((), ARGS)
        half_even = spec.rounding == "half_even"
        per_worker = operand_select.SCRATCH_BYTES + self.masks_bytes + max(1, len(operands)) * channels + SPARE_BYTES
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
            self.args[name] = value

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
        args, pixels = copy_args(self.args), images * height * width
        levels = _channels_last("levels", images, self.groups * self.channels, height, width)
        if x.dtype == torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
            limits = (-128.0, 127.0, 128.0) if signed else (0.0, 255.0, 0.0)
            args["source"] = x.data_ptr()
            for name, value in zip(
                ("inverse", "lowest", "highest", "offset"), (inverse_scale(x_scale), *limits), strict=True
            ):
                args[name] = value
        else:
            levels.copy_(x.to(torch.int16) + 128 if signed else x)
        target = levels
        if self.expands:
            target = _channels_last("operands", images, len(self.operands) * levels.shape[1], height, width)
        elif not args["source"] and order is None:
            return levels, levels
        if order is not None:
            places = order.numpy().astype(np.uint32)
            args["order"] = places.ctypes.data
        args["pixels"], args["levels"], args["target"] = pixels, levels.data_ptr(), target.data_ptr()
        if not self.expands:
            args["operands"] = 0
        args["scratch"] = scratch("quantize", int(args["scratch_bytes"]))
        run_kernel(kernel(), args, -(-pixels // int(args["block"])))
        return levels, target

    @property
    def expands(self) -> bool:
        """Whether the dense operands are more than the activations."""
        return self.operands not in ((), (ACTIVATION,))


def _channels_last(name: str, images: int, channels: int, height: int, width: int) -> Tensor:
    held = buffer(name, images * channels * height * width)
    return held.view(images, height, width, channels).permute(0, 3, 1, 2)


@compiled
def _quantize(source: u64, target: u64, count: u64, args: Any, spare: u64) -> None:
    """Quantize `count` floats; `spare` is scratch of 256 bytes."""
    inverse, lowest, highest, offset = args.inverse, args.lowest, args.highest, args.offset
    i = u64(0)
    while i < count:
        if i + u64(64) > count:
            if count < u64(64):
                v.copy(spare, source, u64(4) * count)
                v.store(spare, v.quantize(spare, inverse, lowest, highest, offset))
                v.copy(target, spare, count)
                return
            i = count - u64(64)  # once more over some of the last vector
        v.store(target + i, v.quantize(source + u64(4) * i, inverse, lowest, highest, offset))
        i += u64(64)


@compiled
def _mark_active(levels: u64, masks: u64, channels: u64) -> None:
    """Masks of one pixel twice in a row, so that a partner's mask lies at a fixed distance."""
    for start in (masks, masks + channels):
        c = u64(0)
        while c < channels:
            v.store(start + c, v.nonzero(v.load(levels + c)))
            c += u64(64)


@compiled
def _expand_pixel(levels: u64, target: u64, args: Any, scratch: u64) -> None:
    """All operands of one pixel of one group: (channels,) to (operands * channels,), two and two alternating."""
    channels, masks = args.channels, scratch + u64(operand_select.SCRATCH_BYTES)
    part = channels // args.threads
    _mark_active(levels, masks, channels)
    c = u64(0)
    while c < channels:
        if c + u64(64) > channels and channels > u64(64):
            c = channels - u64(64)
        operand_select.write_values(v.load(levels + c), np.uint8(args.round_up), np.uint8(args.round_odd), scratch)
        own = masks + c
        u1, u2, u3 = v.load(own + part), v.load(own + part + part), v.load(own + part + part + part)
        operand_select.write_masks(u1, u2, u3, args.threads, scratch)
        operand, out, left = args.table, target, args.operands
        while left > u64(1):
            first, second = (
                operand_select.select(operand, scratch),
                operand_select.select(operand + u64(TABLE_BYTES), scratch),
            )
            v.store_zipped(out + c + c, first, second)
            operand += u64(2 * TABLE_BYTES)
            out += channels + channels
            left -= u64(2)
        if left:
            v.store(out + c, operand_select.select(operand, scratch))
        c += u64(64)


@compiled
def _reorder(levels: u64, pixels: u64, args: Any, spare: u64) -> None:
    """Put the channels of these pixels in order; `spare` is scratch of one pixel."""
    order = carray(v.pointer(args.order), MANY, np.uint32)
    before = carray(v.pointer(spare), MANY, np.uint8)
    for _ in range(pixels):
        v.copy(spare, levels, args.channels)
        after = carray(v.pointer(levels), MANY, np.uint8)
        for c in range(args.channels):
            after[c] = before[order[c]]
        levels += args.channels


@compiled
def _work_on_block(args: Any, first: u64, last: u64, scratch: u64) -> None:
    """Pixels first..last-1."""
    values = args.groups * args.channels
    levels, count = args.levels + first * values, (last - first) * values
    spare = scratch + args.scratch_bytes - args.operands * args.channels - u64(SPARE_BYTES)
    if args.source:
        _quantize(args.source + u64(4) * first * values, levels, count, args, spare)
    if args.order:
        _reorder(levels, last - first, args, scratch + u64(operand_select.SCRATCH_BYTES))
    size = args.operands * args.channels
    if not size:
        return
    target = args.target + first * args.groups * size
    end = args.target + last * args.groups * size
    while target < end:
        # A vector may stick out of its operand into the next, written later, but never out of the block.
        if args.channels < u64(64) and target + size + u64(128) > end:
            _expand_pixel(levels, spare, args, scratch)
            v.copy(target, spare, size)
        else:
            _expand_pixel(levels, target, args, scratch)
        levels += args.channels
        target += size


def _make(sources: str) -> Any:
    def quantize_blocks(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        args = carray(address, 1, ARGS)[0]
        scratch = args.scratch + v.claim(args.address + u64(16)) * args.scratch_bytes
        operand_select.clear(scratch)
        while True:
            first = v.claim(args.address + u64(8)) * args.block
            if first >= args.pixels:
                return
            _work_on_block(args, first, min(first + args.block, args.pixels), scratch)

    return quantize_blocks


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
