"""Adding a list of weights to a dense convolution."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import SparseWeights
from bnrecal.nbsmt.engines.cpu.kernels.channel_planes import Planes, plan_layout
from bnrecal.nbsmt.engines.cpu.kernels.runtime import Args, copy_args, run_kernel, scratch
from bnrecal.nbsmt.engines.cpu.kernels.sparse import ARGS, kernel
from bnrecal.nbsmt.engines.cpu.sparse_layout import LEAST_FILTERS, Layer, SparseLayout
from bnrecal.nbsmt.geometry import Geometry, Pair
from bnrecal.nbsmt.spec import SmtSpec


class Inexact(ArithmeticError):
    """Dense sums came as float32 beyond 2^24: they may have been rounded."""


class SparseSums:
    """A list of weights at one shape of input."""

    def __init__(
        self,
        sparse: SparseWeights,
        spec: SmtSpec,
        layer: Layer,
        geometry: Geometry,
        kernel_size: Pair,
        shape: torch.Size,
    ) -> None:
        """Of inputs of `shape` (N, groups * channels, H, W)."""
        layout = plan_layout(shape[0], (shape[2], shape[3]), kernel_size, geometry)
        self.plan, self.filters = SparseLayout(sparse, layer, layout), max(layer.filters, LEAST_FILTERS)
        self.planes = Planes(layout, layer.channels * layer.groups, self.plan.length + self.plan.strip)
        # Signed levels travel as + 128, in the border too.
        self.signed_base = np.zeros(-(-self.filters // 8) * 8, np.int32)
        np.subtract.at(self.signed_base, sparse.filters.numpy(), 128 * sparse.weights.numpy().sum(1, dtype=np.int32))
        self.zeros = np.zeros_like(self.signed_base)
        self.args = self._args(spec)

    def _args(self, spec: SmtSpec) -> Args:
        plan, half_even, args = self.plan, spec.rounding == "half_even", np.zeros((), ARGS)
        strips = -(-plan.layout.positions // plan.strip)
        for name, value in {
            "units": strips * -(-self.filters // plan.chunk),
            "strips": strips,
            "strip": plan.strip,
            "positions": plan.layout.positions,
            "pixels": plan.layout.outputs.ctypes.data,
            "pitch": self.planes.pitch,
            "phase_pitch": plan.layout.positions,
            "length": plan.length,
            "threads": spec.threads,
            "round_up": 7 * half_even,
            "round_odd": half_even,
            "table": plan.table.ctypes.data,
            "blocks": plan.blocks.ctypes.data,
            "block_count": len(plan.blocks),
            "sources": plan.sources.ctypes.data,
            "kinds": plan.kinds.ctypes.data,
            "entries": plan.entries.ctypes.data,
            "starts": plan.starts.ctypes.data,
            "filters": self.filters,
            "chunk": plan.chunk,
            "scratch_bytes": plan.scratch_bytes,
            "spare_bytes": plan.spare_bytes,
            "sums_bytes": plan.sums_bytes,
        }.items():
            args[name] = value
        return args

    def __call__(
        self,
        levels: Tensor,
        signed: bool,
        dense: Tensor | None,
        target: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        """target = dense + list, or (dense + list) * scale + bias in float32, every step rounded.

        Args:
            levels: uint8 (N, C, H, W), channels-last with slack behind; signed ones as + 128.
            dense: int32, or float32 that holds integers, (N, O, H', W'), channels-last; None: nothing to add.
            target: int32 for the sums, float32 for the scaled ones, channels-last.
            scale, bias: float32 (O,).

        Raises:
            Inexact: where the dense sums may have been rounded; then `target` is wrong.
        """
        if target.shape[1] < self.filters:
            few, wider = target, _wider(target, self.filters)
            self(levels, signed, None if dense is None else _wider(dense, self.filters), wider, scale, bias)
            few.copy_(wider[:, : few.shape[1]])
            return
        args, inexact = copy_args(self.args), np.zeros((), np.uint64)
        args["planes"] = self.planes(levels, signed)
        if dense is not None:
            args["dense"], args["dense_floats"] = dense.data_ptr(), dense.dtype == torch.float32
        args["target"], args["target_integers"] = target.data_ptr(), target.dtype == torch.int32
        held = [_padded(values, self.filters) for values in (scale, bias)]
        args["scale"], args["bias"] = (values.data_ptr() for values in held)
        args["base"] = (self.signed_base if signed else self.zeros).ctypes.data
        args["inexact"] = inexact.ctypes.data
        args["scratch"] = scratch("list", int(args["scratch_bytes"]))
        run_kernel(kernel(), args, int(args["units"]))
        if inexact:
            raise Inexact


def _padded(values: Tensor | None, filters: int) -> Tensor:
    """float32, a multiple of 8 of them."""
    padded = torch.zeros(-(-filters // 8) * 8)
    if values is not None:
        padded[: len(values)] = values
    return padded


def _wider(x: Tensor, channels: int) -> Tensor:
    """x (N, C, H, W) with zero channels behind, channels-last."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1])).contiguous(memory_format=torch.channels_last)


def usable() -> Any:
    """Whether the kernel compiles here."""
    return kernel() is not None
