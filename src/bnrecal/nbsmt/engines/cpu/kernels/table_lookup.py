"""What a policy given as tables sends for activations: one look-up for every operand, in one pass over memory."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels import simd_u8 as v
from bnrecal.nbsmt.engines.cpu.kernels.operand_select import u64
from bnrecal.nbsmt.engines.cpu.kernels.quantize import Quantizer
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

ARGS = args_dtype(
    "levels",  # uint8 (rows, channels): a row is one group of one pixel
    "target",  # float32 (rows, width)
    "rows",
    "channels",
    "threads",  # of NB-SMT
    "width",
    "operands",
    "tables",  # float32 (operands, PARTNERS, 256)
    "chosen",  # uint32 (width,): the channel of every place
    "starts",  # uint32 (operands + 1,): the first place of every operand
    "block",  # rows of a unit
    "scratch",
    "scratch_bytes",  # of it for each worker: uint16 (block, channels)
)
PARTNERS = 8  # which of up to three partners are non-zero
BLOCK_LEVELS = 8192  # that a worker takes at a time: with one table they stay in its first-level cache
MANY = 1 << 40  # carray wants a length

Selected = tuple[int, Tensor, Tensor]  # the partners that count, bit r - 1 for partner r; (rows, 256) values; channels


class Lookup:
    """Of inputs (N, groups * channels, H, W), float32 values that an ordinary convolution takes."""

    def __init__(self, selected: Sequence[Selected], spec: SmtSpec, channels: int, groups: int) -> None:
        """The operands in their order.

        Args:
            sent: of each operand the partners that count, integer (rows, 256) by how many of them are non-zero and by
                the activation, and its channels, int64.
        """
        self.groups, self.width = groups, sum(len(chosen) for _, _, chosen in selected)
        self.quantizer = Quantizer((), SmtSpec(), channels, groups)
        tables = [table[[(m & pattern).bit_count() for m in range(PARTNERS)]] for pattern, table, _ in selected]
        self.tables = torch.stack(tables).float().contiguous().numpy()
        self.chosen = torch.cat([chosen for _, _, chosen in selected]).numpy().astype(np.uint32)
        self.starts = np.cumsum([0, *(len(chosen) for _, _, chosen in selected)]).astype(np.uint32)
        self.args, block = np.zeros((), ARGS), max(1, BLOCK_LEVELS // channels)
        for name, value in {
            "channels": channels,
            "threads": spec.threads,
            "width": self.width,
            "operands": len(selected),
            "tables": self.tables.ctypes.data,
            "chosen": self.chosen.ctypes.data,
            "starts": self.starts.ctypes.data,
            "block": block,
            "scratch_bytes": -(-2 * block * channels // 64) * 64,
        }.items():
            self.args[name] = value

    def __call__(self, x: Tensor, x_scale: float) -> Tensor:
        """float32 (N, groups * width, H, W), channels-last, overwritten by the next call in this thread.

        Args:
            x: float32 activations (N, groups * channels, H, W), or their levels in uint8.
        """
        levels, _ = self.quantizer(x, x_scale, False)
        images, _, height, width = levels.shape
        args, rows = copy_args(self.args), images * height * width * self.groups
        held = buffer("looked up", 4 * rows * self.width).view(torch.float32)
        args["levels"], args["target"], args["rows"] = levels.data_ptr(), held.data_ptr(), rows
        args["scratch"] = scratch("look up", int(args["scratch_bytes"]))
        run_kernel(kernel(), args, -(-rows // int(args["block"])))
        return held.view(images, height, width, self.groups * self.width).permute(0, 3, 1, 2)


@compiled
def _index_rows(levels: Any, index: Any, first: int, last: int, channels: int, threads: int) -> None:
    """Where in every table each level of these rows finds its value."""
    part, at = channels // threads, 0
    for row in range(first, last):
        base = row * channels
        for c in range(channels):
            place, partner = 0, c
            for r in range(threads - 1):
                partner += part
                if partner >= channels:
                    partner -= channels
                if levels[base + partner] != 0:
                    place += 256 << r
            index[at] = place + levels[base + c]
            at += 1


@compiled
def _look_up_rows(target: Any, index: Any, first: int, last: int, args: Any, channels: int) -> None:
    """All values of these rows, operand by operand: one table at a time is in the cache."""
    tables = carray(v.pointer(args.tables), MANY, np.float32)
    chosen = carray(v.pointer(args.chosen), MANY, np.uint32)
    starts = carray(v.pointer(args.starts), MANY, np.uint32)
    for operand in range(np.int64(args.operands)):
        table, start, end = operand * 256 * PARTNERS, np.int64(starts[operand]), np.int64(starts[operand + 1])
        for row in range(first, last):
            base, own = row * np.int64(args.width), (row - first) * channels
            for place in range(start, end):
                target[base + place] = tables[table + index[own + chosen[place]]]


def _make(sources: str) -> Any:
    def look_up(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        args = carray(address, 1, ARGS)[0]
        levels, target = (
            carray(v.pointer(args.levels), MANY, np.uint8),
            carray(v.pointer(args.target), MANY, np.float32),
        )
        worker = v.claim(args.address + u64(16))
        index = carray(v.pointer(args.scratch + worker * args.scratch_bytes), MANY, np.uint16)
        channels, threads, rows = np.int64(args.channels), np.int64(args.threads), np.int64(args.rows)
        while True:
            first = np.int64(v.claim(args.address + u64(8)) * args.block)
            if first >= rows:
                return
            last = min(first + np.int64(args.block), rows)
            _index_rows(levels, index, first, last, channels, threads)
            _look_up_rows(target, index, first, last, args, channels)

    return look_up


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
