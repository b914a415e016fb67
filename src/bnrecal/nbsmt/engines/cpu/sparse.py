"""Sparse weights added to a dense convolution."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import SparseWeights
from bnrecal.nbsmt.engines.cpu.channel_planes import Planes, plan_layout
from bnrecal.nbsmt.engines.cpu.kernels.instructions import LANES
from bnrecal.nbsmt.engines.cpu.kernels.runtime import Args, OwnArgs, new_args, run_kernel, scratch
from bnrecal.nbsmt.engines.cpu.kernels.sparse import ARGS, kernel
from bnrecal.nbsmt.engines.cpu.sparse_entries import Layer
from bnrecal.nbsmt.engines.cpu.sparse_layout import LEAST_FILTERS, SparseLayout
from bnrecal.nbsmt.geometry import Geometry, Pair
from bnrecal.nbsmt.spec import SmtSpec


class Inexact(ArithmeticError):
    """Dense sums came as float32 beyond 2^24: they may have been rounded."""


class SparseSums:
    """The sums of sparse weights at one shape of input."""

    def __init__(
        self,
        sparse: SparseWeights,
        spec: SmtSpec,
        layer: Layer,
        geometry: Geometry,
        kernel_size: Pair,
        shape: torch.Size,
    ) -> None:
        """Prepare for inputs of `shape` (N, groups * channels, H, W)."""
        layout = plan_layout(shape[0], (shape[2], shape[3]), kernel_size, geometry)
        self.plan = SparseLayout(sparse, layer, layout)
        self.filters = max(layer.filters, LEAST_FILTERS)
        self.planes = Planes(layout, layer.channels * layer.groups, self.plan.length + self.plan.strip)
        # Signed levels travel as + 128, in the border too.
        self.signed_base = np.zeros(-(-self.filters // LANES) * LANES, np.int32)
        np.subtract.at(self.signed_base, sparse.filters.numpy(), 128 * sparse.weights.numpy().sum(1, dtype=np.int32))
        self.zeros = np.zeros_like(self.signed_base)
        self.no_values = torch.zeros(len(self.zeros))
        self.base_addresses = (self.zeros.ctypes.data, self.signed_base.ctypes.data)
        args = self._args(spec)
        self.own = OwnArgs(args)
        self.scratch_bytes = int(args["scratch_bytes"])
        self.units = int(args["units"])

    def _args(self, spec: SmtSpec) -> Args:
        plan = self.plan
        strips = -(-plan.used // plan.strip)
        half_even = spec.rounding == "half_even"
        return new_args(
            ARGS,
            units=strips * -(-self.filters // plan.chunk),
            strips=strips,
            strip=plan.strip,
            positions=plan.used,
            pixels=plan.layout.outputs.ctypes.data,
            pitch=self.planes.pitch,
            phase_pitch=plan.layout.positions,
            length=plan.length,
            threads=spec.threads,
            round_up=7 * half_even,
            round_odd=half_even,
            plain=plan.plain,
            slice_pitch=self.planes.pitch * plan.layer.part,
            table=plan.table.ctypes.data,
            blocks=plan.blocks.ctypes.data,
            block_count=len(plan.blocks),
            sets=plan.sets.ctypes.data,
            sources=plan.sources.ctypes.data,
            kinds=plan.kinds.ctypes.data,
            entries=plan.entries.ctypes.data,
            starts=plan.starts.ctypes.data,
            filters=self.filters,
            chunk=plan.chunk,
            scratch_bytes=plan.scratch_bytes,
            spare_bytes=plan.spare_bytes,
            sums_bytes=plan.sums_bytes,
        )

    def __call__(
        self,
        levels: Tensor,
        signed: bool,
        dense: Tensor | None,
        target: Tensor | Args,
        scale: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        """Write target = dense + sparse, or (dense + sparse) * scale + bias in float32, every step rounded.

        Args:
            levels: uint8 (N, C, H, W), channels-last with slack behind; signed ones as + 128.
            dense: int32, or float32 that holds integers, (N, O, H', W'), channels-last; None: nothing to add.
            target: int32 for the sums, float32 for the scaled ones, channels-last; or the record of an end that they
                go through, of at least LEAST_FILTERS filters.
            scale, bias: float32 (O,).

        Raises:
            Inexact: where the dense sums may have been rounded; then `target` is wrong.
        """
        if isinstance(target, Tensor) and target.shape[1] < self.filters:
            wider = _wider(target, self.filters)
            self(levels, signed, None if dense is None else _wider(dense, self.filters), wider, scale, bias)
            target.copy_(wider[:, : target.shape[1]])
            return
        padded_scale = self.no_values if scale is None else _padded(scale)
        padded_bias = self.no_values if bias is None else _padded(bias)
        args = self.own.args
        args["planes"] = self.planes(levels, signed)
        args["base"] = self.base_addresses[signed]
        args["scale"] = padded_scale.data_ptr()
        args["bias"] = padded_bias.data_ptr()
        args["inexact"] = 0
        args["scratch"] = scratch("sparse", self.scratch_bytes)
        if isinstance(target, Tensor):
            args["target"] = target.data_ptr()
            args["target_integers"] = target.dtype == torch.int32
            args["end"] = 0
        else:
            args["target_integers"] = 0
            args["end"] = target["address"]
        args["dense"] = 0 if dense is None else dense.data_ptr()
        args["dense_floats"] = dense is not None and dense.dtype == torch.float32
        run_kernel(kernel(), args, self.units)
        if args["inexact"]:
            raise Inexact


def _padded(values: Tensor) -> Tensor:
    """Return float32 (O,) with zeros behind, a multiple of LANES of them; values that are such already as they are."""
    missing = -len(values) % LANES
    return F.pad(values, (0, missing)) if missing else values.contiguous()


def _wider(x: Tensor, channels: int) -> Tensor:
    """Return x (N, C, H, W) with zero channels behind, channels-last."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1])).contiguous(memory_format=torch.channels_last)
