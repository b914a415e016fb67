"""The prepared NB-SMT convolution: weights taken apart and packed once, activations quantized on the fly."""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.decompose.operands import fold_taps
from bnrecal.nbsmt.engines.cpu.dense_sparse import DenseSparseEngine, kernels_compile
from bnrecal.nbsmt.engines.cpu.depthwise import DepthwiseConv
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, onednn_exactness
from bnrecal.nbsmt.engines.expanded import ExpandedConv
from bnrecal.nbsmt.engines.gpu.choose import CUDA_BACKENDS, WholeConv, can_run, choose_cuda, make
from bnrecal.nbsmt.engines.integer_conv import FloatConv
from bnrecal.nbsmt.engines.table_conv import TableConv
from bnrecal.nbsmt.geometry import Pair, check_geometry, im2col, pointwise
from bnrecal.nbsmt.policies.custom import AnyPolicy, is_custom, policy_factors
from bnrecal.nbsmt.spec import SmtSpec

BACKENDS = ("onednn-int8", "depthwise", *CUDA_BACKENDS, "float32", "float64")


class Engine(Protocol):
    """A way to carry out a layer whose channels divide by the threads, on one device."""

    @property
    def backend(self) -> str:
        """What does the sums."""

    @property
    def layout(self) -> str:
        """How the weights are held, for reports."""

    def accumulate(self, x: Tensor) -> Tensor:
        """int32 sums (N, O, H', W') of uint8 levels, or int8 ones with one thread."""

    def convolve(self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, signed: bool) -> Tensor:
        """sums * scale + bias of float32 activations, or of their levels."""


class PreparedConv2d:
    """NB-SMT convolution with fixed int8 weights.

    Attributes:
        spec: the machine emulated.
        weight: int8 (O, C / groups, kh, kw).
        geometry: stride, padding, dilation, groups.
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
        if spec.threads == 1:  # nothing collides or is reduced: the quick ways need not know how
            spec = replace(spec, policy=SmtSpec.policy, saturate=True)
        self.spec, self.weight, self.kernel = spec, weight.detach(), (weight.shape[2], weight.shape[3])
        self.geometry = check_geometry(weight.shape[1], weight.shape[0], stride, padding, dilation, groups)
        self.device = torch.device(device) if device is not None else weight.device
        # Where the channels do not divide, partners sit at other taps, and only the columns of im2col divide.
        self.by_columns = weight.shape[1] % spec.threads != 0
        self.columns = -(-weight[0].numel() // spec.threads) * spec.threads
        # A strided 1x1 kernel never looks at most pixels: they are left out before anything is expanded.
        self.skips = not self.by_columns and self.kernel == (1, 1) and not any(self.geometry.padding)
        self._inner = pointwise(groups) if self.by_columns or self.skips else self.geometry
        self._exact: PreparedConv2d | None = None
        self._cuda = self._choose_cuda(backend)
        # What works on whole batches divides the threads among channels or columns by itself.
        self._whole: WholeConv | None = (
            make(self._cuda, self.weight, spec, self.geometry, self.device) if self._cuda else None
        )
        self._form: Engine | None = None if self._whole else self._choose(backend)

    @property
    def backend(self) -> str:
        """The name of what does the sums, one of BACKENDS. All are exact."""
        return self._cuda or self.form.backend

    @property
    def form(self) -> Engine:
        """What carries out a layer whose channels divide; not for CUDA_BACKENDS."""
        assert self._form is not None
        return self._form

    @property
    def layout(self) -> str:
        """How the weights are held, for reports."""
        return self._form.layout if self._form else "expanded"

    def accumulate(self, x: Tensor) -> Tensor:
        """The int32 accumulators, exact.

        Args:
            x: uint8 (N, C, H, W) of any layout; int8 for one thread alone.

        Returns:
            int32 (N, O, H', W').
        """
        shape = self._check(x, x.dtype)
        if 0 in shape:
            return x.new_empty(shape, dtype=torch.int32)
        return self._whole.accumulate(x) if self._whole else self.form.accumulate(self._seen(x))

    def __call__(
        self,
        x: Tensor,
        x_scale: float,
        w_scale: Tensor,
        bias: Tensor | None = None,
        signed: bool = False,
        order: Tensor | None = None,
    ) -> Tensor:
        """Quantize, convolve, and scale back.

        Args:
            x: float32 (N, C, H, W) of any layout.
            x_scale: step of the activations' grid.
            w_scale: float32 (O,), steps of the weights' grids.
            bias: float32 (O,).
            signed: quantize to -128..127 (one thread alone) instead of 0..255.
            order: int64 (C,), on the CPU: position i of the weight's channels meets input channel order[i]. For one
                group; None: as they come.

        Returns:
            float32 (N, O, H', W'), channels-last: accumulator * (x_scale * w_scale) + bias, every step rounded.
        """
        shape = self._check(x, torch.int8 if signed else torch.uint8)
        if 0 in shape:
            return x.new_empty(shape)
        scale = w_scale * x_scale
        if order is not None:
            if isinstance(self._form, DenseSparseEngine) and not self.by_columns:  # reorders bytes while it quantizes
                return self._form.convolve(self._seen(x.float()), x_scale, scale, bias, signed, order)
            x = x.index_select(1, order.to(x.device))
        if self._whole:
            return self._whole.convolve(x, x_scale, scale, bias, signed)
        return self.form.convolve(self._seen(x.float(), x_scale, signed), x_scale, scale, bias, signed)

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

    def _choose_cuda(self, backend: str | None) -> str | None:
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, not {backend!r}")
        if backend not in CUDA_BACKENDS:
            return None if backend else choose_cuda(self.weight, self.spec, self.geometry.groups, self.device)
        if not can_run(backend, self.weight, self.spec, self.geometry.groups, self.device):
            raise ValueError(f"backend {backend!r} cannot run {self.spec} exactly on this {self.device.type}")
        return backend

    def _choose(self, backend: str | None) -> Engine:
        weight = fold_taps(self.weight, self.spec.threads)
        if is_custom(self.spec.policy):
            return self._by_table(weight, backend)
        kernels = self.device.type == "cpu" and kernels_compile()
        in_one_pass = kernels and DepthwiseConv.fits(weight, self.spec)
        if in_one_pass and backend in (None, "depthwise"):
            return DepthwiseConv(weight, self._inner)
        # Rounding up to 256 and 128 leaves the 8-bit operands of the kernels.
        bytes_do = self.spec.saturate or self.spec.threads == 1
        eight_bit = kernels and bytes_do and onednn_exactness() is not Exactness.NONE
        if backend == "depthwise" or (backend == "onednn-int8" and not eight_bit):
            raise ValueError(f"backend {backend!r} cannot run {self.spec} exactly on this {self.device.type}")
        if backend == "float64" or not (kernels and bytes_do):
            return ExpandedConv(weight, self.spec, self._inner, backend, self.device)
        if backend == "float32" and not FloatConv.fits(weight, 255):
            raise ValueError(f"backend 'float32' cannot hold the sums of a kernel of {self.kernel}")
        return DenseSparseEngine(weight, self.spec, self._inner, backend or ("onednn-int8" if eight_bit else "float32"))

    def _by_table(self, weight: Tensor, backend: str | None) -> Engine:
        if backend in ("onednn-int8", "depthwise"):
            raise ValueError(f"backend {backend!r} cannot run {self.spec}: choose 'float32' or 'float64'")
        factors = policy_factors(self.spec.policy, self.spec.threads)
        return TableConv(weight, self.spec, factors, self._inner, backend, self.device)

    def _seen(self, x: Tensor, x_scale: float = 1.0, signed: bool = False) -> Tensor:
        """The input, or its levels, as the form takes it."""
        if self.by_columns:
            levels = quantize_activation(x, x_scale, signed) if x.dtype == torch.float32 else x
            return im2col(levels, self.kernel, self.geometry, self.columns)
        return x[:, :, :: self.geometry.stride[0], :: self.geometry.stride[1]] if self.skips else x

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
    policy: AnyPolicy = "A",
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
        BnrecalError: for a policy from outside, at the first operand pair that is wrong.
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
