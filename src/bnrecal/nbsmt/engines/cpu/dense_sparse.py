"""NB-SMT on a processor: a dense 8-bit convolution and a list, quantized and put together by numba kernels."""

from collections import OrderedDict
from functools import cached_property

import torch
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import DenseSparse, decompose_weights
from bnrecal.nbsmt.engines.cpu.cost_model import cheapest
from bnrecal.nbsmt.engines.cpu.kernels import channel_planes, depthwise, quantize
from bnrecal.nbsmt.engines.cpu.kernels import sparse as sparse_kernel
from bnrecal.nbsmt.engines.cpu.onednn import (
    PACKED_SHAPES,
    SIGNED_OFFSET,
    Exactness,
    OneDnnConv,
    can_trust,
    onednn_exactness,
    sums_are_exact,
)
from bnrecal.nbsmt.engines.cpu.quantizer import Quantizer
from bnrecal.nbsmt.engines.cpu.sparse import Inexact, SparseSums
from bnrecal.nbsmt.engines.cpu.sparse_layout import Layer
from bnrecal.nbsmt.engines.integer_conv import FloatConv, IntegerConv
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.spec import SmtSpec

# Images are taken so many at a time that what lies between two kernels stays near the cache: beyond it, writing costs
# more than the products.
PIECE_BYTES = 4 * 2**20


def kernels_compile() -> bool:
    """Whether numba compiles the kernels here."""
    return all(module.kernel() is not None for module in (quantize, channel_planes, sparse_kernel, depthwise))


class DenseSparseEngine:
    """One layer with fixed weights.

    The sums are oneDNN's at the shapes where it computes exactly, else float32's, or float64's for the largest kernels.
    """

    def __init__(self, weight: Tensor, spec: SmtSpec, geometry: Geometry, backend: str) -> None:
        """Of int8 weights (O, C / groups, kh, kw), C / groups a multiple of the threads."""
        self.spec, self.geometry = spec, geometry
        self.kernel = (weight.shape[2], weight.shape[3])
        eight_bit = backend == "onednn-int8" and can_trust(tuple(weight.shape))
        self.exactness = onednn_exactness() if eight_bit else Exactness.NONE
        self.weight, self.share = weight.cpu(), cheapest(weight, spec, geometry, self.exactness)
        self.layer = Layer(spec.threads, weight.shape[1], weight.shape[0], geometry.groups)
        self._split: DenseSparse | None = None
        split = self._parts()
        self.operands, self.entries = split.operands, len(split.sparse)
        self.quantizer = Quantizer(self.operands, spec, weight.shape[1], geometry.groups)
        self._sparse_sums: OrderedDict[torch.Size, SparseSums] = OrderedDict()
        self._onednn: dict[bool, OneDnnConv] = {}  # of unsigned and of signed levels
        self._used: set[str] = set()

    @property
    def backend(self) -> str:
        """What did the dense sums in the calls so far, before the first what is to do them: one of "onednn-int8",
        "float32" and "float64", or where shapes differ, two."""
        expected = "float32" if self.exactness is Exactness.NONE else "onednn-int8"
        return " and ".join(sorted(self._used, reverse=True)) or expected

    @property
    def layout(self) -> str:
        """For reports: dense channels per channel and the share of weights in the list."""
        return f"{len(self.operands)} dense + {self.entries / self.weight.numel():.1%} listed"

    def accumulate(self, x: Tensor) -> Tensor:
        """int32 sums (N, O, H', W') of uint8 levels, or int8 ones with one thread."""
        signed = x.dtype == torch.int8
        y = torch.empty(self._output_shape(x), dtype=torch.int32, memory_format=torch.channels_last)
        for part in self._slices(x):
            self._finish(x[part], 1.0, signed, y[part], None, None)
        self._split = None
        return y

    def convolve(
        self,
        x: Tensor,
        x_scale: float,
        scale: Tensor,
        bias: Tensor | None,
        signed: bool,
        order: Tensor | None = None,
    ) -> Tensor:
        """sums * scale + bias of float32 activations, float32 (N, O, H', W'), channels-last.

        Args:
            order: int64 (C,): position i of the weight's channels meets input channel order[i]; for one group alone.
        """
        slices = self._slices(x)
        if self.operands and not self.entries and len(slices) == 1:
            _, dense = self.quantizer(x, x_scale, signed, order)
            backend, levels = self._backend(dense, signed)
            y = backend.convolve(levels, scale, bias)
        else:
            y = torch.empty(self._output_shape(x), memory_format=torch.channels_last)
            for part in slices:
                self._finish(x[part], x_scale, signed, y[part], scale, bias, order)
        self._split = None
        return y

    def _parts(self) -> DenseSparse:
        """The weights taken apart: once more for every new shape, for kept they are larger than what is packed."""
        if self._split is None:
            paired = self.exactness is Exactness.PAIRED
            self._split = decompose_weights(self.weight, self.spec, paired=paired, dense=self.share)
        return self._split

    def _dense_weight(self) -> Tensor:
        weight = self._parts().weight
        assert weight is not None
        return weight

    def _finish(
        self,
        x: Tensor,
        x_scale: float,
        signed: bool,
        target: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        order: Tensor | None = None,
    ) -> None:
        levels, operands = self.quantizer(x, x_scale, signed, order)
        sparse_sums = self._sparse_sums_for(levels)
        if not self.operands:
            sparse_sums(levels, signed, None, target, scale, bias)
            return
        backend, operands = self._backend(operands, signed)
        try:
            sparse_sums(levels, signed, _channels_last(backend.sums(operands)), target, scale, bias)
        except Inexact:
            sparse_sums(levels, signed, _channels_last(backend.accumulate(operands)), target, scale, bias)

    def _output_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        high, wide = self.geometry.output_size((x.shape[2], x.shape[3]), self.kernel)
        return x.shape[0], self.layer.filters, high, wide

    def _slices(self, x: Tensor) -> list[slice]:
        """Of equal size, so that one packing does for all.

        One thread with an empty list does not lay anything between its kernels.
        """
        images = x.shape[0]
        if self.spec.threads == 1 and not self.entries:
            return [slice(0, images)]
        _, filters, high, wide = self._output_shape(x)
        per_image = x.shape[1] * x.shape[2] * x.shape[3] * (2 + len(self.operands)) + 4 * filters * high * wide
        fit = max(1, PIECE_BYTES // per_image)
        size = max(n for n in range(1, min(fit, images) + 1) if images % n == 0)
        return [slice(first, first + size) for first in range(0, images, size)]

    def _sparse_sums_for(self, levels: Tensor) -> SparseSums:
        shape = levels.shape
        if shape not in self._sparse_sums:
            if len(self._sparse_sums) == PACKED_SHAPES:
                self._sparse_sums.popitem(last=False)
            sparse = self._parts().sparse
            self._sparse_sums[shape] = SparseSums(sparse, self.spec, self.layer, self.geometry, self.kernel, shape)
        self._sparse_sums.move_to_end(shape)
        return self._sparse_sums[shape]

    def _backend(self, operands: Tensor, signed: bool) -> tuple[IntegerConv, Tensor]:
        """What does the sums at this shape, and the operands as it takes them: for floats, signed ones as they are."""
        if self._is_exact_at(operands.shape, signed):
            self._used.add("onednn-int8")
            return self._onednn_for(signed), operands
        self._used.add("float32" if self._floats.dtype == torch.float32 else "float64")
        return self._floats, operands.to(torch.int16) - SIGNED_OFFSET if signed else operands

    def _is_exact_at(self, shape: torch.Size, signed: bool) -> bool:
        """Whether a trial of oneDNN at this shape of the operands came out exact; its answer is kept."""
        if self.exactness is Exactness.NONE:
            return False
        weight_shape = (len(self.weight), len(self.operands) * self.weight.shape[1], *self.kernel)
        zero_point = SIGNED_OFFSET if signed else 0
        return sums_are_exact(self.exactness, tuple(shape), weight_shape, self.geometry, zero_point)

    def _onednn_for(self, signed: bool) -> OneDnnConv:
        if signed not in self._onednn:
            self._onednn[signed] = OneDnnConv(self._dense_weight, self.geometry, SIGNED_OFFSET if signed else 0)
        return self._onednn[signed]

    @cached_property
    def _floats(self) -> FloatConv:
        weight = self._dense_weight()
        dtype = torch.float32 if FloatConv.fits(weight, 255) else torch.float64
        return FloatConv(weight, self.geometry, 255, dtype, weight.device)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
