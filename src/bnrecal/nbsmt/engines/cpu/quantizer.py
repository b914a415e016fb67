"""A layer's input as levels, and from them its dense operands."""

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.decompose.operands import ACTIVATION, Operand
from bnrecal.nbsmt.engines.cpu.kernels import operand_select
from bnrecal.nbsmt.engines.cpu.kernels.quantize import ARGS, SPARE_BYTES, kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import (
    SLACK,
    OwnArgs,
    buffer,
    new_args,
    run_kernel,
    scratch,
    set_args,
)
from bnrecal.nbsmt.engines.cpu.kernels.slice_operands import FULL_OPERANDS
from bnrecal.nbsmt.spec import SmtSpec

BLOCK_BYTES = 16384  # quantized bytes a worker takes at a time: they stay in its first-level cache


class Quantizer:
    """The levels of a layer's input, and its dense operands in the order of `DenseSparse`."""

    def __init__(self, operands: tuple[Operand, ...], spec: SmtSpec, channels: int, groups: int) -> None:
        """Prepare for inputs of (N, groups * channels, H, W)."""
        self.operands = operands
        self.channels = channels
        self.groups = groups
        self.table = operand_select.operand_table(operands)
        half_even = spec.rounding == "half_even"
        masks_bytes = 2 * channels + 64
        per_worker = operand_select.SCRATCH_BYTES + masks_bytes + max(1, len(operands)) * channels + SPARE_BYTES
        self.block = max(1, BLOCK_BYTES // (channels * groups))
        self.scratch_bytes = -(-per_worker // 64) * 64
        args = new_args(
            ARGS,
            groups=groups,
            channels=channels,
            threads=spec.threads,
            full=operands == FULL_OPERANDS.get(spec.threads),
            table=self.table.ctypes.data,
            round_up=7 * half_even,
            round_odd=half_even,
            block=self.block,
            scratch_bytes=self.scratch_bytes,
        )
        self.own = OwnArgs(args)

    def __call__(self, x: Tensor, x_scale: float, signed: bool) -> tuple[Tensor, Tensor]:
        """Return levels and dense operands of an input, both overwritten by the next call in this thread.

        Args:
            x: float32 (N, groups * channels, H, W), or uint8 or int8 levels of that shape.

        Returns:
            uint8 (N, groups * channels, H, W), signed levels as + 128, and uint8 (N, groups * len(operands) * channels,
            H, W), both channels-last. Where the operands are just the activations, both are the same.
        """
        if x.dtype != torch.float32:
            x = _as_unsigned(x, signed)
            if not self.expands:
                return x, x
        images, _, height, width = x.shape
        args = self.own.args
        if x.dtype == torch.float32:
            levels = _channels_last("levels", images, self.groups * self.channels, height, width)
            x = x.contiguous(memory_format=torch.channels_last)
            lowest, highest, offset = (-128.0, 127.0, 128.0) if signed else (0.0, 255.0, 0.0)
            set_args(args, source=x.data_ptr(), inverse=inverse_scale(x_scale))
            set_args(args, lowest=lowest, highest=highest, offset=offset)
        else:
            levels = x
            args["source"] = 0
        target = levels
        if self.expands:
            target = _channels_last("operands", images, len(self.operands) * levels.shape[1], height, width)
        args["operands"] = len(self.operands) if self.expands else 0
        pixels = images * height * width
        args["pixels"] = pixels
        args["levels"] = levels.data_ptr()
        args["target"] = target.data_ptr()
        args["scratch"] = scratch("quantize", self.scratch_bytes)
        run_kernel(kernel(), args, -(-pixels // self.block))
        return levels, target

    @property
    def expands(self) -> bool:
        """True where the dense operands are more than the activations."""
        return self.operands not in ((), (ACTIVATION,))


def empty_levels(shape: torch.Size, signed: bool) -> Tensor:
    """Return memory for levels (N, C, H, W), channels-last, that `has_slack`."""
    memory = torch.empty(shape.numel() + SLACK, dtype=torch.int8 if signed else torch.uint8)
    return _laid_out(memory, *shape)


def floats(name: str, shape: torch.Size) -> Tensor:
    """Return a buffer as float32 (N, C, H, W), channels-last; the next of its name in this thread overwrites it."""
    return _laid_out(buffer(name, 4 * shape.numel()).view(torch.float32), *shape)


def has_slack(x: Tensor) -> bool:
    """Return whether levels lie as the kernels take them: channels-last, with bytes behind that vectors may read."""
    behind = x.untyped_storage().nbytes() - x.storage_offset() - x.numel()
    return bool(behind >= SLACK) and x.is_contiguous(memory_format=torch.channels_last)


def _as_unsigned(x: Tensor, signed: bool) -> Tensor:
    """Return levels as the kernels take them: with slack behind, signed ones as + 128."""
    if not signed and has_slack(x):
        return x
    levels = _channels_last("levels", *x.shape)
    if signed:
        return torch.bitwise_xor(x.view(torch.uint8), 128, out=levels)
    return levels.copy_(x)


def _channels_last(name: str, images: int, channels: int, height: int, width: int) -> Tensor:
    return _laid_out(buffer(name, images * channels * height * width), images, channels, height, width)


def _laid_out(memory: Tensor, images: int, channels: int, height: int, width: int) -> Tensor:
    """Return memory as (N, C, H, W), channels-last, in one step: with `view` and `permute` it would be two."""
    strides = (channels * height * width, 1, width * channels, channels)
    return memory.as_strided((images, channels, height, width), strides)
