"""The NB-SMT convolution as two Triton kernels a layer, whole batches at a time."""

import logging
import sys

import torch
import triton
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.engine import ConvLayer
from bnrecal.nbsmt.engines.gpu.conv_end import Output
from bnrecal.nbsmt.engines.gpu.kernels import convolve, expand
from bnrecal.nbsmt.engines.gpu.layout import lay_out
from bnrecal.nbsmt.engines.gpu.tuning import INTERPRETED, current, launch, multiply
from bnrecal.nbsmt.geometry import Geometry, Pair, pointwise

log = logging.getLogger("bnrecal")

# An accumulator of Ampere's tensor cores saturates at 2^31. A sum of |a - 128| * |b| stays below while the absolute
# weights of a filter sum to less than 2^24; after SAFE_STEPS steps of 128 products it does whatever they are.
SAFE_WEIGHT, SAFE_STEPS = 2**24, 1023
LARGEST_INDEX = 2**31 - 2**14  # of a pixel: the last programs count some thousands on
# Pixels that a row of the expansion's programs shares, one vector of channels a lane; and pixels that a lane takes one
# after another of a channel that is gathered by itself. Both are powers of two.
LANES = 1024 if INTERPRETED else 128
RUN = 8
DEPTHWISE_TILE = (128, 64) if INTERPRETED else (64, 32)


class TritonConv:
    """Int8 products and int32 sums on tensor cores; exact. Weights are expanded and packed when it is made."""

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self.spec = layer.spec
        self.geometry = layer.geometry
        self.kernel = layer.kernel
        self.filters, self.per_group = layer.weight.shape[:2]
        self.depthwise = self.per_group == 1 and layer.spec.threads == 1
        if self.depthwise:
            self.weight = layer.weight.to(layer.device).flatten(1).T.contiguous()  # (taps, O)
            return
        self.layout, self.weight = lay_out(layer.weight, layer.spec, layer.geometry.groups, layer.device)
        totals = self.weight.flatten(1).to(torch.int32)
        self.offset = (128 * totals.sum(1)).to(torch.int32)
        self.no_offset = torch.zeros_like(self.offset)
        self.fitting = sys.maxsize  # bytes of expanded activations that the GPU's memory has been found to hold
        self.split = SAFE_STEPS if int(totals.abs().sum(1).max()) >= SAFE_WEIGHT else 0
        self._choose_views()

    def _choose_views(self) -> None:
        """Choose what the first kernel writes and the second reads: bordered input, pixels seen, or im2col's rows.

        Written pixel (i, j) sees `taps` of the input, from (i, j) * stride - padding on, as `source` has them.
        """
        g, one, none = self.geometry, (1, 1), (0, 0)
        self.bordered = not self.layer.folds_taps and (self.kernel != one or any(g.padding))
        if self.bordered:
            self.taps = one
            self.source = Geometry(one, g.padding, one, g.groups)
            self.seen = self.kernel
            self.inner = Geometry(g.stride, none, g.dilation, g.groups)
        else:
            self.taps = self.kernel
            self.source = g
            self.seen = one
            self.inner = pointwise(g.groups)

    def accumulate(self, x: Tensor) -> Tensor:
        """Return int32 sums (N, O, H', W') of uint8 activations (N, C, H, W), or int8 ones at one thread."""
        with current(x.device):
            return self._run(x, None, x.dtype == torch.int8, Output())

    def convolve(
        self,
        x: Tensor,
        x_scale: float,
        scale: Tensor,
        bias: Tensor | None,
        signed: bool,
        end: ConvEnd | None = None,
    ) -> Tensor:
        """Return scale[o] * sums + bias[o], float32, or what `end` makes of it.

        Args:
            x: float32, to be quantized in steps of x_scale, or its levels.
        """
        inverse = inverse_scale(x_scale) if x.is_floating_point() else None
        with current(x.device):
            return self._run(x, inverse, signed, Output(scale, bias, end))

    def _run(self, x: Tensor, inverse: float | None, signed: bool, output: Output) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        images = x.shape[0]
        size = (x.shape[2], x.shape[3])
        seen = self.geometry.output_size(size, self.kernel)
        y = torch.empty(images, *seen, self.filters, dtype=output.dtype, device=x.device)
        if self.depthwise:
            self._depthwise(x, y, inverse, signed, output)
            return y.permute(0, 3, 1, 2)
        written = self._written(size, seen)
        pixels = written[0] * written[1]
        of_image = pixels * self.layout.total
        piece = max(1, min(images, LARGEST_INDEX // pixels, self.fitting // of_image))
        first = 0
        while first < images:
            some = slice(first, first + piece)
            try:
                expanded = _expanded(len(x[some]), *written, self.layout.total, x.device)
            except torch.cuda.OutOfMemoryError:
                if piece == 1:
                    raise
                piece = (piece + 1) // 2
                self.fitting = piece * of_image
                log.warning("the GPU's memory is short: a layer takes %d images at a time", piece)
                continue
            self._expand(aligned(x[some], self.layout.vector), expanded, inverse, signed)
            self._multiply(expanded, y[some], signed, output.of(some))
            first += piece
        return y.permute(0, 3, 1, 2)

    def _written(self, size: Pair, output: Pair) -> Pair:
        """Return (H, W) of the expanded activations."""
        (height, width), (top, left) = size, self.geometry.padding
        return (height + 2 * top, width + 2 * left) if self.bordered else output

    def _expand(self, x: Tensor, expanded: Tensor, inverse: float | None, signed: bool) -> None:
        lay, s = self.layout, self.source
        height, width = expanded.shape[1:3]
        pixels = expanded[..., 0].numel()
        count = len(lay.operands)
        gathered = len(lay.codes)
        vector = lay.vector
        whole = lay.groups * lay.columns // vector if count else 0
        side_by_side = max(RUN, min(LANES, triton.next_power_of_2(gathered)))  # gathered channels that lanes take
        in_row = whole + side_by_side // RUN * triton.cdiv(gathered, side_by_side)
        launch(
            expand.quantize_expand, (triton.cdiv(pixels, LANES) * in_row,),
            x, expanded, lay.operands, lay.places, lay.sources, lay.codes, inverse or 1.0, pixels, height, width,
            lay.total, x.shape[2], x.shape[3], x.stride(0), x.stride(2), x.stride(3), lay.columns, lay.groups,
            count, gathered, side_by_side.bit_length() - 1, lay.width, lay.bundle, lay.depth, *s.stride, *s.padding,
            *s.dilation,
            T=lay.threads, TAPS=self.taps[0] * self.taps[1], VEC=vector, QUANTIZE=inverse is not None, SIGNED=signed,
            HALF_EVEN=self.spec.rounding == "half_even", LANES=LANES, RUN=RUN,
        )  # fmt: skip

    def _multiply(self, expanded: Tensor, y: Tensor, signed: bool, output: Output) -> None:
        lay, g = self.layout, self.inner
        rows = y[..., 0].numel()
        taps = self.seen[0] * self.seen[1]
        multiply(
            x=expanded, w=self.weight, y=y, **output.arguments(y),
            offset=self.no_offset if signed else self.offset, rows=rows, XH=expanded.shape[1], XW=expanded.shape[2],
            OH=y.shape[1], OW=y.shape[2], E=lay.total, filters=self.filters // lay.bundles, bundles=lay.bundles,
            depth=lay.depth, taps=taps, KW=self.seen[1], SY=g.stride[0], SX=g.stride[1], DY=g.dilation[0],
            DX=g.dilation[1], SPLIT=self.split,
        )  # fmt: skip

    def _depthwise(self, x: Tensor, y: Tensor, inverse: float | None, signed: bool, output: Output) -> None:
        g = self.geometry
        bp, bc = DEPTHWISE_TILE
        rows = y[..., 0].numel()
        launch(
            convolve.depthwise, (triton.cdiv(rows, bp), triton.cdiv(self.filters, bc)),
            x=x, w=self.weight, y=y, **output.arguments(y), x_inverse=inverse or 1.0, rows=rows, H=x.shape[2],
            W=x.shape[3], OH=y.shape[1], OW=y.shape[2], x_image=x.stride(0), x_row=x.stride(2), x_col=x.stride(3),
            filters=self.filters, multiplier=self.filters // g.groups, KW=self.kernel[1], SY=g.stride[0],
            SX=g.stride[1], PY=g.padding[0], PX=g.padding[1], DY=g.dilation[0], DX=g.dilation[1],
            TAPS=self.kernel[0] * self.kernel[1], QUANTIZE=inverse is not None, SIGNED=signed, BP=bp, BC=bc,
        )  # fmt: skip


def aligned(x: Tensor, vector: int) -> Tensor:
    """Return x, copied if it is levels that begin within the words of four that lanes load."""
    return x.clone() if not x.is_floating_point() and x.storage_offset() % min(vector, 4) else x


def _expanded(images: int, height: int, width: int, channels: int, device: torch.device) -> Tensor:
    return torch.empty(images, height, width, channels, dtype=torch.int8, device=device)
