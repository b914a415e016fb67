"""The prepared NB-SMT convolution: weights expanded and packed once, activations expanded on the fly."""

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.backends import SIGNED_OFFSET, Backend, FloatConv, OneDnnConv, onednn_is_exact
from bnrecal.nbsmt.cpu.fused import FusedExpansion, fused_expansion
from bnrecal.nbsmt.cuda.choose import CUDA_BACKENDS, WholeConv, can_run, choose_cuda, make
from bnrecal.nbsmt.expansion import expand_activations, expand_weights, foldable_weight, plan_expansion
from bnrecal.nbsmt.geometry import Pair, check_geometry, im2col, pointwise
from bnrecal.nbsmt.spec import SmtSpec

BACKENDS = ("onednn-int8", *CUDA_BACKENDS, "float32", "float64")
# Images are taken so many at a time that their expanded activations stay near the cache: beyond it, writing them
# costs more than the products.
PIECE_BYTES = 4 * 2**20


class PreparedConv2d:
    """NB-SMT convolution with fixed int8 weights.

    Attributes:
        spec: the machine emulated.
        weight: int8 (O, C / groups, kh, kw).
        geometry: stride, padding, dilation, groups.
        backend: the name of what does the sums, one of BACKENDS. All are exact.
    """

    def __init__(
        self,
        weight: Tensor,
        spec: SmtSpec,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        backend: str | None = None,
    ) -> None:
        """Expand the weights; they are packed at the first call, for its shape.

        Args:
            weight: int8 (O, C / groups, kh, kw).
            device: where activations will be; the weight's by default.
            backend: one of BACKENDS; the fastest that is exact here by default.

        Raises:
            TypeError, ValueError: naming the argument that no such convolution has.
        """
        _check_weight(weight)
        self.spec, self.weight, self.kernel = spec, weight.detach(), (weight.shape[2], weight.shape[3])
        self.geometry = check_geometry(weight.shape[1], weight.shape[0], stride, padding, dilation, groups)
        self.device = torch.device(device) if device is not None else weight.device
        # Where the channels do not divide, partners sit at other taps, and only the columns of im2col divide.
        self.by_columns = weight.shape[1] % spec.threads != 0
        self.columns = -(-weight[0].numel() // spec.threads) * spec.threads
        # A strided 1x1 kernel never looks at most pixels: they are left out before anything is expanded.
        self.skips = not self.by_columns and self.kernel == (1, 1) and not any(self.geometry.padding)
        self._inner = pointwise(groups) if self.by_columns or self.skips else self.geometry
        self.backend = self._choose(backend)
        self._exact: PreparedConv2d | None = None
        self._whole: WholeConv | None = None
        if self.backend in CUDA_BACKENDS:  # works on whole batches, and expands by itself
            self._whole = make(self.backend, self.weight, spec, self.geometry, self.device)
            return
        self.expansion = plan_expansion(foldable_weight(weight, spec.threads), spec, self.device)
        self._convs: dict[bool, Backend] = {}
        self._fused: FusedExpansion | None = None
        if self.backend == "onednn-int8" and not self.by_columns:
            self._fused = fused_expansion(self.expansion, spec, groups)

    def accumulate(self, x: Tensor) -> Tensor:
        """The int32 accumulators, exact.

        Args:
            x: uint8 (N, C, H, W) of any layout; int8 for one thread alone.

        Returns:
            int32 (N, O, H', W').
        """
        signed = x.dtype == torch.int8
        shape = self._check(x, x.dtype)
        if 0 in shape:
            return x.new_empty(shape, dtype=torch.int32)
        if self._whole is not None:
            return self._whole.accumulate(x)
        x = self._seen(x)
        if self._fused is not None:
            return self._conv(signed).accumulate(self._fused(x.float(), 1.0, signed))
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
            float32 (N, O, H', W'), within rounding of x_scale * w_scale * accumulator + bias.
        """
        shape = self._check(x, torch.int8 if signed else torch.uint8)
        if 0 in shape:
            return x.new_empty(shape)
        scale = w_scale * x_scale
        if self._whole is not None:
            return self._whole.convolve(x, x_scale, scale, bias, signed)
        x, conv = self._seen(x), self._conv(signed)
        piece = self._images_at_a_time(x)
        if piece >= shape[0]:
            return conv.convolve(self._quantize_expand(x, x_scale, signed), scale, bias)
        y = torch.empty(shape, memory_format=torch.channels_last, device=x.device)
        for first in range(0, shape[0], piece):
            some = slice(first, first + piece)
            y[some] = conv.convolve(self._quantize_expand(x[some], x_scale, signed), scale, bias)
        return y

    def one_thread(self) -> "PreparedConv2d":
        """The exact 8-bit convolution with the same weights."""
        if self._exact is None:
            g = self.geometry
            self._exact = PreparedConv2d(
                self.weight,
                SmtSpec(),
                stride=g.stride,
                padding=g.padding,
                dilation=g.dilation,
                groups=g.groups,
                device=self.device,
            )
        return self._exact

    def _expanded_weight(self) -> Tensor:
        """int16, or int8 where it fits. Worked out for each packing: kept, it would outweigh the packed form."""
        return expand_weights(foldable_weight(self.weight, self.spec.threads), self.expansion, self.spec)

    def _choose(self, backend: str | None) -> str:
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, not {backend!r}")
        # Rounding up to 256 and 128 leaves the 8-bit operands of oneDNN.
        int8 = self.spec.saturate and self.device.type == "cpu" and onednn_is_exact()
        groups = self.geometry.groups
        if (backend == "onednn-int8" and not int8) or (
            backend in CUDA_BACKENDS and not can_run(backend, self.weight, self.spec, groups, self.device)
        ):
            raise ValueError(f"backend {backend!r} cannot run {self.spec} exactly on this {self.device.type}")
        backend = backend or choose_cuda(self.weight, self.spec, groups, self.device)
        if backend is not None:
            return backend
        taps = 1 if self.by_columns else self.kernel[0] * self.kernel[1]
        return "onednn-int8" if int8 else "float32" if taps * 256 * 128 < 2**24 else "float64"

    def _conv(self, signed: bool) -> Backend:
        if signed not in self._convs:
            if self.backend == "onednn-int8":
                offset = SIGNED_OFFSET if signed else 0
                self._convs[signed] = OneDnnConv(self._expanded_weight, self._inner, offset)
            else:
                dtype = torch.float32 if self.backend == "float32" else torch.float64
                largest = 255 if self.spec.saturate else 256
                weight = self._expanded_weight()
                self._convs[signed] = FloatConv(weight, self._inner, largest, dtype, self.device)
        return self._convs[signed]

    def _seen(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.geometry.stride[0], :: self.geometry.stride[1]] if self.skips else x

    def _images_at_a_time(self, x: Tensor) -> int:
        """The largest divisor of the batch that fits PIECE_BYTES: pieces of one shape need one packing.

        One thread expands nothing, and putting the pieces together would cost more than they save.
        """
        if self.spec.threads == 1:
            return x.shape[0]
        height, width = self._inner.output_size((x.shape[2], x.shape[3]), self.kernel)
        pixels = height * width if self.by_columns else x.shape[2] * x.shape[3]
        fit = max(1, PIECE_BYTES // (self.expansion.width * self.geometry.groups * pixels))
        return max(n for n in range(1, min(fit, x.shape[0]) + 1) if x.shape[0] % n == 0)

    def _quantize_expand(self, x: Tensor, x_scale: float, signed: bool) -> Tensor:
        if self._fused is not None and x.dtype == torch.float32:
            return self._fused(x, x_scale, signed)
        return self._expand(quantize_activation(x, x_scale, signed))

    def _expand(self, q: Tensor) -> Tensor:
        """By plain torch, to what the backend takes."""
        if self.by_columns:
            q = im2col(q, self.kernel, self.geometry, self.columns)
        x = expand_activations(q, self.expansion, self.spec, self.geometry.groups)
        if self.backend != "onednn-int8":
            return x
        return (x + SIGNED_OFFSET if q.dtype == torch.int8 else x).to(torch.uint8)

    def _check(self, x: Tensor, dtype: torch.dtype) -> tuple[int, int, int, int]:
        """The shape of the output, if this input has one."""
        allowed = (torch.uint8, torch.int8) if self.spec.threads == 1 else (torch.uint8,)
        if dtype not in allowed:
            raise TypeError(f"activations of threads={self.spec.threads} must be in {allowed}, not {dtype}")
        channels = self.weight.shape[1] * self.geometry.groups
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"activations must be (N, {channels}, H, W), not {tuple(x.shape)}")
        height, width = self.geometry.output_size((x.shape[2], x.shape[3]), self.kernel)
        if height < 1 or width < 1:
            raise ValueError(f"a kernel of {self.kernel} does not fit into an input of {tuple(x.shape)}")
        return x.shape[0], self.weight.shape[0], height, width


def _check_weight(weight: Tensor) -> None:
    if weight.dtype != torch.int8:
        raise TypeError(f"weights must be torch.int8, not {weight.dtype}")
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"weights must be (O, C / groups, kh, kw), none of them 0, not {tuple(weight.shape)}")


def nbsmt_conv2d(
    x: Tensor,
    w: Tensor,
    *,
    threads: int,
    policy: str = "A",
    sparsity: bool = True,
    rounding: str = "half_even",
    saturate: bool = True,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """The accumulators of an NB-SMT convolution, exactly as `bnrecal.nbsmt.reference` defines them.

    Args:
        x: uint8 (N, C, H, W) of any layout.
        w: int8 (O, C / groups, kh, kw).
        threads, policy, sparsity, rounding, saturate: as in `SmtSpec`.
        stride, padding, dilation, groups: as in `F.conv2d`; each group is a GEMM of its own, cut among the threads.

    Returns:
        int32 (N, O, H', W') on x's device.

    Raises:
        TypeError, ValueError: naming the bad value.
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"activations must be torch.uint8, not {x.dtype}")
    prepared = PreparedConv2d(
        w,
        SmtSpec(threads, policy, sparsity, rounding, saturate),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        device=x.device,
    )
    return prepared.accumulate(x)
