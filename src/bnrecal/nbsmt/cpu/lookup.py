"""What a policy given as tables sends for activations: one look-up for every operand, in one pass over memory."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray  # type: ignore[attr-defined]
from torch import Tensor

from bnrecal.nbsmt.cpu import vectors as v
from bnrecal.nbsmt.cpu.jobs import buffer, compile_kernel, compiled, copied, fields, run, scratch
from bnrecal.nbsmt.cpu.quantize import Quantizer
from bnrecal.nbsmt.cpu.sending import Word
from bnrecal.nbsmt.spec import SmtSpec

JOB = fields(
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

Sent = tuple[int, Tensor, Tensor]  # the partners that count, bit r - 1 for partner r; (rows, 256) values; channels


class Lookup:
    """Of inputs (N, groups * channels, H, W), float32 values that an ordinary convolution takes."""

    def __init__(self, sent: Sequence[Sent], spec: SmtSpec, channels: int, groups: int) -> None:
        """The operands in their order.

        Args:
            sent: of each operand the partners that count, integer (rows, 256) by how many of them are non-zero and by
                the activation, and its channels, int64.
        """
        self.groups, self.width = groups, sum(len(chosen) for _, _, chosen in sent)
        self.quantizer = Quantizer((), SmtSpec(), channels, groups)
        tables = [table[[(m & pattern).bit_count() for m in range(PARTNERS)]] for pattern, table, _ in sent]
        self.tables = torch.stack(tables).float().contiguous().numpy()
        self.chosen = torch.cat([chosen for _, _, chosen in sent]).numpy().astype(np.uint32)
        self.starts = np.cumsum([0, *(len(chosen) for _, _, chosen in sent)]).astype(np.uint32)
        self.job, block = np.zeros((), JOB), max(1, BLOCK_LEVELS // channels)
        for name, value in {
            "channels": channels,
            "threads": spec.threads,
            "width": self.width,
            "operands": len(sent),
            "tables": self.tables.ctypes.data,
            "chosen": self.chosen.ctypes.data,
            "starts": self.starts.ctypes.data,
            "block": block,
            "scratch_bytes": -(-2 * block * channels // 64) * 64,
        }.items():
            self.job[name] = value

    def __call__(self, x: Tensor, x_scale: float) -> Tensor:
        """float32 (N, groups * width, H, W), channels-last, overwritten by the next call in this thread.

        Args:
            x: float32 activations (N, groups * channels, H, W), or their levels in uint8.
        """
        levels, _ = self.quantizer(x, x_scale, False)
        images, _, height, width = levels.shape
        job, rows = copied(self.job), images * height * width * self.groups
        held = buffer("looked up", 4 * rows * self.width).view(torch.float32)
        job["levels"], job["target"], job["rows"] = levels.data_ptr(), held.data_ptr(), rows
        job["scratch"] = scratch("look up", int(job["scratch_bytes"]))
        run(kernel(), job, -(-rows // int(job["block"])))
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
def _look_up_rows(target: Any, index: Any, first: int, last: int, job: Any, channels: int) -> None:
    """All values of these rows, operand by operand: one table at a time is in the cache."""
    tables = carray(v.pointer(job.tables), MANY, np.float32)
    chosen = carray(v.pointer(job.chosen), MANY, np.uint32)
    starts = carray(v.pointer(job.starts), MANY, np.uint32)
    for operand in range(np.int64(job.operands)):
        table, start, end = operand * 256 * PARTNERS, np.int64(starts[operand]), np.int64(starts[operand + 1])
        for row in range(first, last):
            base, own = row * np.int64(job.width), (row - first) * channels
            for place in range(start, end):
                target[base + place] = tables[table + index[own + chosen[place]]]


def _make(sources: str) -> Any:
    def look_up(address: Any) -> None:
        sources  # noqa: B018  (part of numba's key)
        job = carray(address, 1, JOB)[0]
        levels, target = carray(v.pointer(job.levels), MANY, np.uint8), carray(v.pointer(job.target), MANY, np.float32)
        worker = v.claim(job.address + Word(16))
        index = carray(v.pointer(job.scratch + worker * job.scratch_bytes), MANY, np.uint16)
        channels, threads, rows = np.int64(job.channels), np.int64(job.threads), np.int64(job.rows)
        while True:
            first = np.int64(v.claim(job.address + Word(8)) * job.block)
            if first >= rows:
                return
            last = min(first + np.int64(job.block), rows)
            _index_rows(levels, index, first, last, channels, threads)
            _look_up_rows(target, index, first, last, job, channels)

    return look_up


@cache
def kernel() -> Any | None:
    """The compiled kernel, None where numba cannot compile."""
    return compile_kernel(_make)
