"""The operands of a policy given as tables, looked up by a kernel."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bnrecal.nbsmt.engines.cpu.kernels.runtime import buffer, copy_args, new_args, run_kernel, scratch, set_args
from bnrecal.nbsmt.engines.cpu.kernels.table_lookup import ARGS, PARTNERS, kernel
from bnrecal.nbsmt.engines.cpu.quantizer import Quantizer
from bnrecal.nbsmt.spec import SmtSpec

BLOCK_LEVELS = 8192  # that a worker takes at a time: with one table they stay in its first-level cache

Selected = tuple[int, Tensor, Tensor]  # the partners that count, bit r - 1 for partner r; (rows, 256) values; channels


class Lookup:
    """The operands of inputs (N, groups * channels, H, W), as float32 values that an ordinary convolution takes."""

    def __init__(self, selected: Sequence[Selected], spec: SmtSpec, channels: int, groups: int) -> None:
        """Lay the operands out in their order.

        Args:
            selected: of each operand the partners that count, integer (rows, 256) by how many of them are non-zero and
                by the activation, and its channels, int64.
        """
        self.groups = groups
        self.width = sum(len(chosen) for _, _, chosen in selected)
        self.quantizer = Quantizer((), SmtSpec(), channels, groups)
        self.tables = torch.stack([_by_partners(pattern, table) for pattern, table, _ in selected]).numpy()
        self.chosen = torch.cat([chosen for _, _, chosen in selected]).numpy().astype(np.uint32)
        self.starts = np.cumsum([0, *(len(chosen) for _, _, chosen in selected)]).astype(np.uint32)
        block = max(1, BLOCK_LEVELS // channels)
        self.args = new_args(
            ARGS,
            channels=channels,
            threads=spec.threads,
            width=self.width,
            operands=len(selected),
            tables=self.tables.ctypes.data,
            chosen=self.chosen.ctypes.data,
            starts=self.starts.ctypes.data,
            block=block,
            scratch_bytes=-(-2 * block * channels // 64) * 64,
        )

    def __call__(self, x: Tensor, x_scale: float) -> Tensor:
        """Return float32 (N, groups * width, H, W), channels-last, overwritten by the next call in this thread.

        Args:
            x: float32 activations (N, groups * channels, H, W), or their levels in uint8.
        """
        levels, _ = self.quantizer(x, x_scale, False)
        images, _, height, width = levels.shape
        rows = images * height * width * self.groups
        values = buffer("looked up", 4 * rows * self.width).view(torch.float32)
        args = set_args(
            copy_args(self.args),
            levels=levels.data_ptr(),
            target=values.data_ptr(),
            rows=rows,
            scratch=scratch("look up", int(self.args["scratch_bytes"])),
        )
        run_kernel(kernel(), args, -(-rows // int(args["block"])))
        return values.view(images, height, width, self.groups * self.width).permute(0, 3, 1, 2)


def _by_partners(pattern: int, table: Tensor) -> Tensor:
    """Return float32 (PARTNERS, 256): the row of a table for every set of non-zero partners."""
    active = [(partners & pattern).bit_count() for partners in range(PARTNERS)]
    return table[active].float()
