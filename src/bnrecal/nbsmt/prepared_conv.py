"""The prepared NB-SMT convolution: weights taken apart and packed once, activations quantized on the fly."""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from bnrecal.nbsmt.engines import make_engine
from bnrecal.nbsmt.engines.apply_end import apply_end_
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.engine import ConvLayer
from bnrecal.nbsmt.geometry import Pair, check_geometry
from bnrecal.nbsmt.policies.custom import AnyPolicy
from bnrecal.nbsmt.spec import SmtSpec


class PreparedConv2d:
    """NB-SMT convolution with fixed int8 weights.

    Attributes:
        layer: the weights, the machine emulated, the geometry, the device; also as `weight`, `spec`, `geometry`.
        engine: what carries it out there.
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
        engine: str | None = None,
    ) -> None:
        """Expand the weights; they are packed at the first call, for its shape.

        Args:
            weight: int8 (O, C / groups, kh, kw).
            device: where activations will be; the weight's by default.
            engine: one of `engines.engine_names()`; the fastest that is exact here by default.

        Raises:
            TypeError, ValueError: naming the argument that no such convolution has.
        """
        _check_weight(weight)
        if spec.threads == 1:  # nothing collides or is reduced: the quick ways need not know how
            spec = replace(spec, policy=SmtSpec.policy, saturate=True)
        geometry = check_geometry(weight.shape[1], weight.shape[0], stride, padding, dilation, groups)
        place = torch.device(device) if device is not None else weight.device
        self.layer = ConvLayer(weight.detach(), spec, geometry, place, engine)
        self.engine = make_engine(self.layer)
        self.weight = self.layer.weight
        self.spec = self.layer.spec
        self.geometry = self.layer.geometry
        self.kernel = self.layer.kernel

    @property
    def engine_name(self) -> str:
        """The engine that does the sums, one of `engines.engine_names()`, or two where shapes differ. All are exact."""
        return self.engine.name

    @property
    def layout(self) -> str:
        """The weights' layout, for reports."""
        return self.engine.layout

    def accumulate(self, x: Tensor) -> Tensor:
        """Return the int32 accumulators, exact.

        Args:
            x: uint8 (N, C, H, W) of any layout; int8 for one thread alone.

        Returns:
            int32 (N, O, H', W').
        """
        shape = self._check(x, x.dtype)
        if 0 in shape:
            return x.new_empty(shape, dtype=torch.int32)
        return self.engine.accumulate(x)

    def __call__(
        self,
        x: Tensor,
        x_scale: float,
        w_scale: Tensor,
        bias: Tensor | None = None,
        signed: bool = False,
        end: ConvEnd | None = None,
    ) -> Tensor:
        """Quantize, convolve, and scale back.

        Args:
            x: float32 (N, C, H, W) of any layout, or its levels: uint8, int8 if signed.
            x_scale: step of the activations' grid.
            w_scale: float32 (O,), steps of the weights' grids.
            bias: float32 (O,).
            signed: quantize to -128..127 (one thread alone) instead of 0..255.
            end: what follows the convolution; where `engines.apply_end.ending` is not NONE.

        Returns:
            float32 (N, O, H', W'), channels-last: accumulator * (x_scale * w_scale) + bias, every step rounded; then
            what `end` says, perhaps as the levels that it asks for.
        """
        return self.convolve(x, x_scale, w_scale * x_scale, bias, signed, end)

    def convolve(
        self,
        x: Tensor,
        x_scale: float,
        scale: Tensor,
        bias: Tensor | None = None,
        signed: bool = False,
        end: ConvEnd | None = None,
    ) -> Tensor:
        """Return what a call returns, given the scale of the sums.

        Args:
            x, x_scale, bias, signed, end: as of a call.
            scale: float32 (O,), the weights' steps times `x_scale`.
        """
        shape = self._check(x, torch.int8 if signed else torch.uint8)
        if 0 in shape:
            return x.new_empty(shape)
        x = x.float() if x.is_floating_point() else x
        if end is not None:
            ended = self.engine.convolve_to_end(x, x_scale, scale, bias, end, signed=signed)
            if ended is not None:
                return ended
        y = self.engine.convolve(x, x_scale, scale, bias, signed=signed)
        return y if end is None else apply_end_(y.contiguous(memory_format=torch.channels_last), end)

    @cached_property
    def one_thread(self) -> "PreparedConv2d":
        """The exact 8-bit convolution with the same weights."""
        return PreparedConv2d(self.weight, SmtSpec(), **vars(self.geometry), device=self.layer.device)

    def _check(self, x: Tensor, dtype: torch.dtype) -> tuple[int, int, int, int]:
        """Return the shape of the output, if this input has one."""
        allowed = (torch.uint8, torch.int8) if self.spec.threads == 1 else (torch.uint8,)
        if dtype not in allowed:
            raise TypeError(f"activations of threads={self.spec.threads} must be in {allowed}, not {dtype}")
        channels = self.weight.shape[1] * self.geometry.groups
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"activations must be (N, {channels}, H, W), not {tuple(x.shape)}")
        shape = self.layer.output_shape(x)
        if min(shape[2:]) < 1:
            raise ValueError(f"a kernel of {self.kernel} does not fit into an input of {tuple(x.shape)}")
        return shape


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
    """Return the accumulators of an NB-SMT convolution, exactly as `bnrecal.nbsmt.reference` defines them.

    Args:
        x: uint8 (N, C, H, W) of any layout.
        w: int8 (O, C / groups, kh, kw).
        threads: 1, 2 or 4; this and the next four as in `SmtSpec`.
        policy: which operand gives way when two threads collide.
        sparsity: a zero operand frees its thread.
        rounding: of reduced operands, "half_even" or "floor".
        saturate: reduced operands stay within 4 bits and a shift.
        stride: of the kernel; this and the next three as in `F.conv2d`.
        padding: zeros on each side.
        dilation: distance of the kernel's taps.
        groups: each is a GEMM of its own, cut among the threads.

    Returns:
        int32 (N, O, H', W') on x's device.

    Raises:
        TypeError, ValueError: naming the bad value.
        BnrecalError: for a policy from outside, at the first operand pair that is wrong.

    Examples:
        >>> import bnrecal, torch
        >>> x = torch.tensor([200, 100], dtype=torch.uint8).view(1, 2, 1, 1)  # a channel for each thread
        >>> w = torch.tensor([3, 0], dtype=torch.int8).view(1, 2, 1, 1)
        >>> bnrecal.nbsmt_conv2d(x, w, threads=2).item()  # the second thread's weight is zero: no collision
        600
        >>> w[0, 1] = 5
        >>> bnrecal.nbsmt_conv2d(x, w, threads=2).item()  # 192 * 3 + 96 * 5: activations in steps of 16
        1056
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
