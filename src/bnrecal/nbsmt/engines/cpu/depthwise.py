"""Depthwise convolutions on one thread, of one or more filters a channel: quantized, summed and scaled in one pass."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.nbsmt.arithmetic import inverse_scale
from bnrecal.nbsmt.engines.cpu.kernels.depthwise import ARGS, POSITIONS, VECTOR, kernel
from bnrecal.nbsmt.engines.cpu.kernels.runtime import Args, copy_args, new_args, run_kernel, scratch, set_args
from bnrecal.nbsmt.engines.cpu.kernels.simd_f32 import LANES
from bnrecal.nbsmt.engines.engine import NO_NUMBA, ConvLayer, Engine
from bnrecal.nbsmt.engines.integer_conv import FloatConv

RING_BYTES = 384 * 1024  # of levels that a worker holds: they are to stay in its second-level cache
UNITS = 4  # for each worker, so that none waits long for the last


class DepthwiseEngine(Engine):
    """One layer with fixed weights, each filter with one input channel."""

    names = ("depthwise",)
    name = "depthwise"
    layout = "quantized and summed in one pass"

    @classmethod
    def can_run(cls, layer: ConvLayer) -> str:
        """Return why the kernel does not run this layer, or "" where it does."""
        if layer.device.type != "cpu":
            return "made for processors"
        if layer.weight.shape[1] > 1 or layer.spec.threads > 1:
            return "it takes one channel a group on one thread"
        if not FloatConv.fits(layer.weight, 255):
            return f"float32 cannot hold the sums of a kernel of {layer.kernel}"
        return "" if kernel() is not None else NO_NUMBA

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self.geometry = layer.geometry
        self.kernel = layer.kernel
        self.filters = len(layer.weight)
        self.channels = max(self.filters, LANES)
        starts = torch.arange(0, self.channels, LANES).clamp(max=self.channels - LANES)
        lanes = starts[:, None] + torch.arange(LANES)  # (blocks, 16), the channels of each block
        rows = self._wide(layer.weight.detach().cpu().float().flatten(1))
        self.weights = rows[lanes].transpose(1, 2).contiguous()  # (blocks, taps, 16)
        self.zeros = torch.zeros(self.filters)
        down = np.arange(self.kernel[0], dtype=np.uint64) * np.uint64(self.geometry.dilation[0])
        right = np.arange(self.kernel[1], dtype=np.uint64) * np.uint64(self.geometry.dilation[1])
        self.tap_rows = np.repeat(down, self.kernel[1])
        self.tap_bytes = np.tile(right * np.uint64(VECTOR), self.kernel[0])
        self.span = int(down[-1]) + 1
        self.reach = int(right[-1]) + 1
        self.args = self._layer_args()
        self._shaped: tuple[tuple[torch.Size, int], Args] | None = None  # of the last call

    def _layer_args(self) -> Args:
        """Return args with what depends on the layer alone."""
        g = self.geometry
        taps = self.weights.shape[1]
        return new_args(
            ARGS,
            blocks=len(self.weights),
            channels=self.channels,
            stride_rows=g.stride[0],
            stride_columns=g.stride[1],
            padding_rows=g.padding[0],
            padding_columns=g.padding[1],
            taps=taps,
            tap_rows=self.tap_rows.ctypes.data,
            tap_bytes=self.tap_bytes.ctypes.data,
            span=self.span,
            weights=self.weights.data_ptr(),
            places_bytes=-(-8 * taps // VECTOR) * VECTOR,
        )

    def accumulate(self, x: Tensor) -> Tensor:
        """Return int32 sums (N, O, H', W') of uint8 or int8 levels."""
        sums = self.convolve(x.float(), 1.0, torch.ones(self.filters), None, signed=x.dtype == torch.int8)
        return sums.to(torch.int32)

    def convolve(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, *, signed: bool = False
    ) -> Tensor:
        """Return sums * scale + bias of activations or of their levels, float32 (N, O, H', W'), channels-last."""
        each = self.filters // self.geometry.groups
        if each > 1:  # the kernel knows one filter a channel
            x = x.repeat_interleave(each, 1)
        if self.channels > self.filters:
            x = F.pad(x, (0, 0, 0, 0, 0, self.channels - self.filters))
        x = x.contiguous(memory_format=torch.channels_last)
        out = self.geometry.output_size((x.shape[2], x.shape[3]), self.kernel)
        y = torch.empty((len(x), self.channels, *out), memory_format=torch.channels_last)
        bias = self.zeros if bias is None else bias
        scale = self._wide(scale.float()).contiguous()
        bias = self._wide(bias.float()).contiguous()
        lowest, highest = (-128.0, 127.0) if signed else (0.0, 255.0)
        args = set_args(
            copy_args(self._shaped_args(x.shape, y.shape, torch.get_num_threads())),
            source=x.data_ptr(),
            source_bytes=x.element_size(),
            signed=x.dtype == torch.int8,
            target=y.data_ptr(),
            scale=scale.data_ptr(),
            bias=bias.data_ptr(),
            inverse=inverse_scale(x_scale),
            lowest=lowest,
            highest=highest,
        )
        args["scratch"] = scratch("depthwise", int(args["scratch_bytes"]))
        run_kernel(kernel(), args, int(args["units"]))
        # dense in memory as every other layer's answer: BatchNorm rounds a strided one otherwise
        return y[:, : self.filters].contiguous(memory_format=torch.channels_last)

    def _wide(self, values: Tensor) -> Tensor:
        """Return (filters, ...) with zeros behind, up to the channels that the kernel sees."""
        missing = self.channels - self.filters
        return torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values

    def _shaped_args(self, shape: torch.Size, out: torch.Size, workers: int) -> Args:
        """Return the layer's args, divided into units for these shapes of input and output."""
        if self._shaped is not None and self._shaped[0] == (shape, workers):
            return self._shaped[1]
        g = self.geometry
        blocks = len(self.weights)
        images, _, rows, columns = shape
        out_rows, out_columns = out[2:]
        needed = (max(out_columns, POSITIONS) - 1) * g.stride[1] + self.reach
        pitch = VECTOR * max(needed, columns + 2 * g.padding[1])
        chunk = min(blocks, max(1, RING_BYTES // (pitch * self.span)))
        chunks = -(-blocks // chunk)
        wanted = -(-UNITS * workers // (images * chunks))
        # Rows that two bands share are quantized twice.
        band = min(out_rows, max(2 * self.span, -(-out_rows // wanted)))
        bands = -(-out_rows // band)
        used = VECTOR * POSITIONS + int(self.args["places_bytes"]) + (self.span + 1) * chunk * pitch
        args = set_args(
            copy_args(self.args),
            units=images * bands * chunks,
            bands=bands,
            band=band,
            chunks=chunks,
            chunk=chunk,
            rows=rows,
            columns=columns,
            out_rows=out_rows,
            out_columns=out_columns,
            pitch=pitch,
            scratch_bytes=-(-used // VECTOR) * VECTOR,
        )
        self._shaped = ((shape, workers), args)
        return args
