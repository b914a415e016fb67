"""The prepared NB-SMT convolution: weights expanded and packed once, activations expanded on the fly."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.smt.arithmetic import quantize_activation
from bnrecal.smt.backends import SIGNED_OFFSET, Backend, FloatConv, Geometry, OneDnnConv, onednn_is_exact
from bnrecal.smt.expand import expand_activations, expand_weights
from bnrecal.smt.spec import SmtSpec

BACKENDS = ("onednn-int8", "float32", "float64")


class PreparedConv2d:
    """NB-SMT convolution with fixed int8 weights.

    Attributes:
        spec: the machine emulated.
        backend: the name of what does the sums: "onednn-int8", "float32" or "float64". All are exact.
    """

    def __init__(
        self,
        weight: Tensor,
        spec: SmtSpec,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        backend: str | None = None,
    ) -> None:
        """Expand and pack.

        Args:
            weight: int8 (O, C / groups, kh, kw).
            device: where activations will be; the weight's by default.
            backend: one of BACKENDS; the fastest that is exact here by default.

        Raises:
            TypeError, ValueError: naming the argument that no such convolution has.
        """
        self.spec, self.weight = spec, weight
        self.geometry = check_geometry(weight, stride, padding, dilation, groups)
        self.device = torch.device(device) if device is not None else weight.device
        self.kernel = (weight.shape[2], weight.shape[3])
        self.channels = weight.shape[1] * groups
        # Where the channels do not divide, partners sit at other taps, and only the columns of im2col divide.
        self.by_columns = weight.shape[1] % spec.threads != 0
        self.columns = -(-weight[0].numel() // spec.threads) * spec.threads
        w, inner = weight, self.geometry
        if self.by_columns:
            flat = weight.flatten(1)
            w = F.pad(flat, (0, self.columns - flat.shape[1]))[:, :, None, None]
            inner = Geometry((1, 1), (0, 0), (1, 1), groups)
        self.operands, expanded = expand_weights(w, spec)
        self._convs: dict[bool, Backend] = {}
        self._expanded, self._inner = expanded, inner
        self.backend = self._choose(backend)
        self._conv(signed=False)

    def accumulate(self, x: Tensor) -> Tensor:
        """The int32 accumulators, exact.

        Args:
            x: uint8 (N, C, H, W) of any layout; int8 for one thread alone.

        Returns:
            int32 (N, O, H', W').
        """
        self._check_input(x)
        if x.shape[0] == 0:
            return x.new_empty(self.output_shape(x), dtype=torch.int32)
        signed = x.dtype == torch.int8
        return self._conv(signed).accumulate(self._expand(x))

    def __call__(
        self, x: Tensor, x_scale: float, w_scale: Tensor, bias: Tensor | None = None, signed: bool = False
    ) -> Tensor:
        """Quantize, convolve, and scale back.

        Args:
            x: float32 (N, C, H, W) of any layout.
            x_scale: step of the activations' grid.
            w_scale: float32 (O,), steps of the weights' grids.
            bias: float32 (O,).
            signed: quantize to -128..127 (one thread alone) instead of 0..255.

        Returns:
            float32 (N, O, H', W'): x_scale * w_scale * accumulator + bias.
        """
        q = quantize_activation(x, x_scale, signed)
        self._check_input(q)
        if x.shape[0] == 0:
            return x.new_empty(self.output_shape(x))
        return self._conv(signed).convolve(self._expand(q), w_scale * x_scale, bias)

    def output_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """(N, O, H', W') for an input (N, C, H, W).

        Raises:
            ValueError: if the kernel does not fit into the padded input.
        """
        height, width = self.geometry.output_size((x.shape[2], x.shape[3]), self.kernel)
        if height < 1 or width < 1:
            raise ValueError(f"a kernel of {self.kernel} does not fit into an input of {tuple(x.shape)}")
        return x.shape[0], self.weight.shape[0], height, width

    def _choose(self, backend: str | None) -> str:
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, not {backend!r}")
        fits = self.spec.saturate and self.device.type == "cpu"
        if backend == "onednn-int8" and not (fits and onednn_is_exact()):
            raise ValueError(f"backend 'onednn-int8' cannot run {self.spec} exactly on this {self.device.type}")
        if backend is not None:
            return backend
        if fits and onednn_is_exact():
            return "onednn-int8"
        taps = self._expanded.shape[2] * self._expanded.shape[3]
        return "float32" if taps * 256 * 128 < 2**24 else "float64"

    def _conv(self, signed: bool) -> Backend:
        if signed not in self._convs:
            if self.backend == "onednn-int8":
                offset = SIGNED_OFFSET if signed else 0
                conv: Backend = OneDnnConv(self._expanded.to(torch.int8), self._inner, offset)
            else:
                dtype = torch.float32 if self.backend == "float32" else torch.float64
                largest = 255 if self.spec.saturate else 256
                conv = FloatConv(self._expanded, self._inner, largest, dtype, self.device)
            self._convs[signed] = conv
        return self._convs[signed]

    def _expand(self, q: Tensor) -> Tensor:
        if self.by_columns:
            q = im2col(q, self.kernel, self.geometry, self.columns)
        x = expand_activations(q, self.operands, self.spec, self.geometry.groups)
        if q.dtype == torch.int8 and self.backend == "onednn-int8":
            x = x + SIGNED_OFFSET
        return x.to(torch.uint8) if self.backend == "onednn-int8" else x

    def _check_input(self, x: Tensor) -> None:
        allowed = (torch.uint8, torch.int8) if self.spec.threads == 1 else (torch.uint8,)
        if x.dtype not in allowed:
            raise TypeError(f"activations of {self.spec.threads} threads must be {allowed}, not {x.dtype}")
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"activations must be (N, {self.channels}, H, W), not {tuple(x.shape)}")
        self.output_shape(x)


def im2col(x: Tensor, kernel: tuple[int, int], g: Geometry, columns: int) -> Tensor:
    """Integer (N, C, H, W) to (N, groups * columns, H', W'), channels-last: per group its channel-major taps, then zeros."""
    images, channels = x.shape[:2]
    padded = F.pad(x, (g.padding[1], g.padding[1], g.padding[0], g.padding[0]))
    height, width = g.output_size((x.shape[2], x.shape[3]), kernel)
    n, c, h, w = padded.stride()
    taps = padded.as_strided(
        (images, height, width, g.groups, channels // g.groups, *kernel),
        (n, h * g.stride[0], w * g.stride[1], c * (channels // g.groups), c, h * g.dilation[0], w * g.dilation[1]),
        padded.storage_offset(),
    )
    flat = taps.reshape(images, height, width, g.groups, -1)
    flat = F.pad(flat, (0, columns - flat.shape[-1]))
    return flat.flatten(3).permute(0, 3, 1, 2)


def check_geometry(
    weight: Tensor,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    groups: int,
) -> Geometry:
    """The geometry as pairs.

    Raises:
        TypeError: weight is not int8, or something is no integer.
        ValueError: naming what no convolution with these weights has.
    """
    if weight.dtype != torch.int8:
        raise TypeError(f"weights must be torch.int8, not {weight.dtype}")
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"weights must be (O, C / groups, kh, kw) with no empty dimension, not {tuple(weight.shape)}")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups must divide the {weight.shape[0]} filters, not {groups}")
    pairs = {"stride": _pair("stride", stride, 1), "padding": _pair("padding", padding, 0)}
    return Geometry(pairs["stride"], pairs["padding"], _pair("dilation", dilation, 1), groups)


def _pair(name: str, value: object, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(v, int) and v >= least for v in pair)):
        raise ValueError(f"{name} must be an integer >= {least} or a pair of them, not {value!r}")
    return pair[0], pair[1]


def nbsmt_conv2d(
    x: Tensor,
    w: Tensor,
    *,
    threads: int,
    policy: str = "A",
    sparsity: bool = True,
    rounding: str = "half_even",
    saturate: bool = True,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """The accumulators of an NB-SMT convolution, exactly as `bnrecal.smt.reference` defines them.

    Args:
        x: uint8 (N, C, H, W) of any layout.
        w: int8 (O, C / groups, kh, kw) on the same device.
        threads, policy, sparsity, rounding, saturate: as in `SmtSpec`.
        stride, padding, dilation, groups: as in `F.conv2d`; each group is a GEMM of its own, its K cut among the threads.

    Returns:
        int32 (N, O, H', W').

    Raises:
        TypeError, ValueError: naming the bad value.
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"activations must be torch.uint8, not {x.dtype}")
    spec = SmtSpec(threads, policy, sparsity, rounding, saturate)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    return PreparedConv2d(w, spec, **geometry, groups=groups, device=x.device).accumulate(x)
