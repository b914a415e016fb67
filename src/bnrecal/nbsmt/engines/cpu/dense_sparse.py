"""NB-SMT on a processor: a dense 8-bit convolution and sparse weights, quantized and put together by numba kernels."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import DenseSparse, decompose_weights
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.cpu.by_shape import ByShape
from bnrecal.nbsmt.engines.cpu.conv_end import EndPass
from bnrecal.nbsmt.engines.cpu.cost_model import cheapest
from bnrecal.nbsmt.engines.cpu.kernels import channel_planes, depthwise, quantize
from bnrecal.nbsmt.engines.cpu.kernels import sparse as sparse_kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import MANY, Args
from bnrecal.nbsmt.engines.cpu.onednn import (
    SIGNED_OFFSET,
    Exactness,
    OneDnnConv,
    can_trust,
    onednn_exactness,
    onednn_trial,
    sums_are_exact,
)
from bnrecal.nbsmt.engines.cpu.quantizer import Quantizer, floats
from bnrecal.nbsmt.engines.cpu.sparse import Inexact, SparseSums
from bnrecal.nbsmt.engines.cpu.sparse_entries import Layer as SparseLayer
from bnrecal.nbsmt.engines.cpu.sparse_layout import LEAST_FILTERS
from bnrecal.nbsmt.engines.engine import NO_NUMBA, ConvLayer, Engine
from bnrecal.nbsmt.engines.integer_conv import FloatConv, IntegerConv

# Images are taken so many at a time that what lies between two kernels stays near the cache, where writing costs less.
# Each piece costs some 200 microseconds besides: 4 MiB took 1.1 to 1.3 times as long as 16 (Intel Cascade Lake).
PIECE_BYTES = 16 * 2**20
# Without sparse weights oneDNN's answer is the layer's: to put it together from pieces would cost a pass over memory,
# so that only operands beyond this are divided.
WHOLE_BYTES = 256 * 2**20
# What follows is one more pass, however, and so quick that it counts whether the output lies in a cache.
ENDED_BYTES = 8 * 2**20


def kernels_compile() -> bool:
    """Return whether numba compiles the kernels here."""
    return all(module.kernel() is not None for module in (quantize, channel_planes, sparse_kernel, depthwise))


class DenseSparseEngine(Engine):
    """One layer with fixed weights.

    The sums are oneDNN's at the shapes where it computes exactly, else float32's, or float64's for the largest kernels.
    """

    names = ("onednn-int8", "float32")

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self.spec = layer.spec
        self.weight = layer.weight.cpu()
        eight_bit = layer.engine_name != "float32" and can_trust(tuple(layer.weight.shape))
        self.exactness = onednn_exactness() if eight_bit else Exactness.NONE
        self.share = cheapest(layer.weight, layer.spec, layer.geometry, self.exactness)
        self._ended: ByShape[_Ended] = ByShape()
        self._parts: DenseSparse | None = None
        parts = self._decompose()  # kept for the first call
        self.operands = parts.operands
        self.entries = len(parts.sparse)
        channels, groups = layer.weight.shape[1], layer.geometry.groups
        self.shape = SparseLayer(layer.spec.threads, channels, len(layer.weight), groups)
        self.quantizer = Quantizer(self.operands, layer.spec, channels, groups)
        self._sparse_sums: ByShape[SparseSums] = ByShape()
        self._onednn: dict[bool, OneDnnConv] = {}  # for unsigned and for signed levels
        self._used: set[str] = set()
        self._exact: dict[tuple[torch.Size, bool], bool] = {}  # by shape of the operands, and whether they are signed

    @classmethod
    def can_run(cls, layer: ConvLayer) -> str:
        """Return why this layer does not run, or "" where it does."""
        if layer.device.type != "cpu":
            return "made for processors"
        if layer.beyond_bytes:
            return layer.beyond_bytes
        if not kernels_compile():
            return NO_NUMBA
        if layer.engine_name == "onednn-int8" and onednn_exactness() is Exactness.NONE:
            return onednn_trial()[1]
        if layer.engine_name == "float32" and not FloatConv.fits(layer.weight, 255):
            return f"float32 cannot hold the sums of a kernel of {layer.kernel}"
        return ""

    @property
    def name(self) -> str:
        """The arithmetic of the dense sums in the calls so far; before the first, what they are to be.

        One of "onednn-int8", "float32" and "float64", or where shapes differ, two.
        """
        expected = "float32" if self.exactness is Exactness.NONE else "onednn-int8"
        return " and ".join(sorted(self._used, reverse=True)) or expected

    @property
    def layout(self) -> str:
        """Dense channels per channel and the share of sparse weights, for reports."""
        return f"{len(self.operands)} dense + {self.entries / self.weight.numel():.1%} sparse"

    def accumulate(self, x: Tensor) -> Tensor:
        """Return int32 sums (N, O, H', W') of uint8 levels, or of int8 ones with one thread."""
        signed = x.dtype == torch.int8
        y = torch.empty(self.layer.output_shape(x), dtype=torch.int32, memory_format=torch.channels_last)
        try:
            for part in self._slices(x):
                self._finish(x[part], 1.0, signed, y[part], None, None)
        finally:
            self._release_parts()
        return y

    def convolve(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, *, signed: bool = False
    ) -> Tensor:
        """Return sums * scale + bias of float32 activations or of their levels, float32, channels-last."""
        slices = self._slices(x)
        try:
            if self._only_dense and len(slices) == 1:
                return self._convolve_dense(x, x_scale, signed, scale, bias)
            y = torch.empty(self.layer.output_shape(x), memory_format=torch.channels_last)
            for part in slices:
                if self._only_dense:
                    y[part] = self._convolve_dense(x[part], x_scale, signed, scale, bias)
                else:
                    self._finish(x[part], x_scale, signed, y[part], scale, bias)
            return y
        finally:
            self._release_parts()

    def convolve_to_end(
        self,
        x: Tensor,
        x_scale: float,
        scale: Tensor,
        bias: Tensor | None,
        end: ConvEnd,
        *,
        signed: bool = False,
    ) -> Tensor | None:
        """Return `convolve` with its end, some images at a time; None where levels are asked for and none exist."""
        plan = self._ended.get(x.shape, lambda: self._plan_ends(x))
        shape = plan.output
        slices = plan.slices
        end_pass = EndPass(end, shape)
        try:
            for part in slices:
                some = x if len(slices) == 1 else x[part]
                if self._only_dense:
                    y = _channels_last(self._convolve_dense(some, x_scale, signed, scale, bias))
                    end_pass.take(y, part.start)
                elif shape[1] < LEAST_FILTERS:
                    y = floats("unended", torch.Size((part.stop - part.start, *shape[1:])))
                    self._finish(some, x_scale, signed, y, scale, bias)
                    end_pass.take(y, part.start)
                else:
                    args = end_pass.args_from(part.start)
                    self._finish(some, x_scale, signed, args, scale, bias)
                    end_pass.note(args)
        finally:
            self._release_parts()
        ended = end_pass.close()
        return ended if end.finite or end.levels is None else None

    @property
    def _only_dense(self) -> bool:
        return bool(self.operands) and not self.entries

    def _decompose(self) -> DenseSparse:
        """Return the weights taken apart: what is packed for a new shape comes from them."""
        if self._parts is None:
            paired = self.exactness is Exactness.PAIRED
            self._parts = decompose_weights(self.weight, self.spec, paired=paired, dense=self.share)
        return self._parts

    def _release_parts(self) -> None:
        """Drop the parts after a call, which took the weights apart at most once: they are larger than what is packed.

        A later call takes them apart anew only where its shape is new.
        """
        self._parts = None

    def _dense_weight(self) -> Tensor:
        weight = self._decompose().weight
        assert weight is not None
        return weight

    def _convolve_dense(self, x: Tensor, x_scale: float, signed: bool, scale: Tensor, bias: Tensor | None) -> Tensor:
        """Return what `convolve` does where no weight is sparse."""
        _, dense = self.quantizer(x, x_scale, signed)
        conv, operands = self._dense_conv(dense, signed)
        return conv.convolve(operands, scale, bias)

    def _finish(
        self, x: Tensor, x_scale: float, signed: bool, target: Tensor | Args, scale: Tensor | None, bias: Tensor | None
    ) -> None:
        """Write into `target` as `SparseSums` does."""
        levels, operands = self.quantizer(x, x_scale, signed)
        sparse_sums = self._sparse_sums_for(levels.shape)
        if not self.operands:
            sparse_sums(levels, signed, None, target, scale, bias)
            return
        conv, operands = self._dense_conv(operands, signed)
        try:
            sparse_sums(levels, signed, _channels_last(conv.sums(operands)), target, scale, bias)
        except Inexact:
            if not isinstance(target, Tensor):
                target["not_finite"] = 0  # of sums that were wrong
            sparse_sums(levels, signed, _channels_last(conv.accumulate(operands)), target, scale, bias)

    def _slices(self, x: Tensor, output_bytes: int = MANY) -> list[slice]:
        """Divide the images into slices of equal size, so that one packing does for all.

        Args:
            output_bytes: that a slice may have if no weight is sparse.
        """
        images = x.shape[0]
        _, filters, high, wide = self.layer.output_shape(x)
        levels = x.shape[1] * x.shape[2] * x.shape[3]
        output = 4 * filters * high * wide
        if self.entries:
            fit = PIECE_BYTES // (levels * (2 + len(self.operands)) + output)
        else:
            fit = min(WHOLE_BYTES // (levels * (1 + len(self.operands))), output_bytes // output)
        size = max(1, min(fit, images))
        while images % size:
            size -= 1
        return [slice(first, first + size) for first in range(0, images, size)]

    def _plan_ends(self, x: Tensor) -> "_Ended":
        return _Ended(torch.Size(self.layer.output_shape(x)), self._slices(x, ENDED_BYTES))

    def _sparse_sums_for(self, shape: torch.Size) -> SparseSums:
        def make() -> SparseSums:
            sparse = self._decompose().sparse
            layer = self.layer
            return SparseSums(sparse, self.spec, self.shape, layer.geometry, layer.kernel, shape)

        return self._sparse_sums.get(shape, make)

    def _dense_conv(self, operands: Tensor, signed: bool) -> tuple[IntegerConv, Tensor]:
        """Return what does the sums at this shape, and the operands as it takes them: floats without the offset."""
        if self._is_exact_at(operands.shape, signed):
            self._used.add("onednn-int8")
            return self._onednn_for(signed), operands
        self._used.add("float32" if self._floats.dtype == torch.float32 else "float64")
        return self._floats, operands.to(torch.int16) - SIGNED_OFFSET if signed else operands

    def _is_exact_at(self, shape: torch.Size, signed: bool) -> bool:
        """Return whether a trial of oneDNN at this shape of the operands came out exact; its answer is kept."""
        if self.exactness is Exactness.NONE:
            return False
        if (shape, signed) not in self._exact:
            weight_shape = (len(self.weight), len(self.operands) * self.weight.shape[1], *self.layer.kernel)
            zero_point = SIGNED_OFFSET if signed else 0
            exact = sums_are_exact(self.exactness, tuple(shape), weight_shape, self.layer.geometry, zero_point)
            self._exact[shape, signed] = exact
        return self._exact[shape, signed]

    def _onednn_for(self, signed: bool) -> OneDnnConv:
        if signed not in self._onednn:
            self._onednn[signed] = OneDnnConv(self._dense_weight, self.layer.geometry, SIGNED_OFFSET if signed else 0)
        return self._onednn[signed]

    @cached_property
    def _floats(self) -> FloatConv:
        weight = self._dense_weight()
        dtype = torch.float32 if FloatConv.fits(weight, 255) else torch.float64
        return FloatConv(weight, self.layer.geometry, 255, dtype, weight.device)


@dataclass(frozen=True)
class _Ended:
    """The output's shape, and the images whose ends are made together."""

    output: torch.Size
    slices: list[slice]


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
