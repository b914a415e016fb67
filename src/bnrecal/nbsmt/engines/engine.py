"""The layer that every engine is made from, and what an engine does with it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.decompose.operands import fold_taps
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.geometry import Geometry, Pair, im2col, pointwise
from bnrecal.nbsmt.policies.custom import is_custom
from bnrecal.nbsmt.spec import SmtSpec

# ruff: noqa: ARG002  (a default takes what engines take)

NO_NUMBA = "numba is switched off or cannot compile here"


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """A convolution with fixed weights, the threads that share its multipliers, and where it runs.

    Attributes:
        weight: int8 (O, C / groups, kh, kw).
        spec: the machine emulated.
        geometry: stride, padding, dilation, groups.
        device: where activations will be.
        engine_name: what is to do the sums, one of an engine's names; None: whatever is exact and fastest.
    """

    weight: Tensor
    spec: SmtSpec
    geometry: Geometry
    device: torch.device
    engine_name: str | None = None

    @property
    def kernel(self) -> Pair:
        """(kh, kw)."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def folds_taps(self) -> bool:
        """True where partners sit at other taps: channels do not divide by the threads, but im2col's columns do."""
        return self.weight.shape[1] % self.spec.threads != 0

    @property
    def columns(self) -> int:
        """Columns of a group's im2col, filled up until they divide by the threads."""
        return -(-self.weight[0].numel() // self.spec.threads) * self.spec.threads

    @property
    def skips_pixels(self) -> bool:
        """True where a 1x1 kernel sees the input by strides alone: most pixels are left out before the expansion."""
        g = self.geometry
        without_border = self.kernel == (1, 1) and g.padding == (0, 0)
        return without_border and not self.folds_taps and g != pointwise(g.groups)

    @property
    def beyond_bytes(self) -> str:
        """Why operands are no 8-bit numbers; empty where they are."""
        if is_custom(self.spec.policy):
            return "a policy from outside is given as tables"
        if self.spec.threads > 1 and not self.spec.saturate:  # they round up to 256 and 128
            return "without saturation operands leave 8 bits"
        return ""

    @cached_property
    def folded(self) -> "ConvLayer":
        """The same sums as a layer whose channels divide and whose pixels all count, of the input that `fold` gives."""
        if not self.folds_taps and not self.skips_pixels:
            return self
        weight = fold_taps(self.weight, self.spec.threads)
        return replace(self, weight=weight, geometry=pointwise(self.geometry.groups))

    def fold(self, x: Tensor) -> Tensor:
        """Return the input (N, C, H, W), of any dtype, as `folded` takes it."""
        if self.folds_taps:
            return im2col(x, self.kernel, self.geometry, self.columns)
        rows, columns = self.geometry.stride
        return x[:, :, ::rows, ::columns]

    def output_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """(N, O, H', W') for an input (N, C, H, W); H' or W' is below 1 where the kernel does not fit."""
        height, width = self.geometry.output_size((x.shape[2], x.shape[3]), self.kernel)
        return x.shape[0], self.weight.shape[0], height, width


class Engine(Protocol):
    """A layer made ready for one device; exact."""

    names: ClassVar[tuple[str, ...]]  # by which a caller asks for it: what can do its sums
    folds: ClassVar[bool] = False  # whether it takes layers as they are; else `ConvLayer.folded` alone

    def __init__(self, layer: ConvLayer) -> None: ...

    @classmethod
    def can_run(cls, layer: ConvLayer) -> str:
        """Return why it cannot run a layer, or "" where it can."""

    @property
    def name(self) -> str:
        """The arithmetic of the sums, as reports name it: one of `names`, or two where shapes differ."""

    @property
    def layout(self) -> str:
        """The weights' layout, for reports."""

    def accumulate(self, x: Tensor) -> Tensor:
        """Return int32 sums (N, O, H', W') of uint8 levels (N, C, H, W), or of int8 ones with one thread."""

    def convolve(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, *, signed: bool = False
    ) -> Tensor:
        """Return sums * scale + bias, every step rounded.

        Args:
            x: float32 (N, C, H, W), to be quantized in steps of `x_scale`, or its levels.
            scale: float32 (O,).
            bias: float32 (O,).
            signed: quantize to -128..127 instead of 0..255; with one thread alone.

        Returns:
            float32 (N, O, H', W'), channels-last.
        """

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
        """Return what `convolve` returns, with what follows it done before it is written, or while it lies in a cache.

        Returns:
            As `apply_end_` of it; None where the engine cannot do that, as by default: then it is a pass of its own.
        """
        return None


class Folded:
    """An engine that sees a layer as `ConvLayer.folded`."""

    def __init__(self, layer: ConvLayer, inner: Engine) -> None:
        self.layer = layer
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def layout(self) -> str:
        return self.inner.layout

    def accumulate(self, x: Tensor) -> Tensor:
        return self.inner.accumulate(self.layer.fold(x))

    def convolve(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, *, signed: bool = False
    ) -> Tensor:
        return self.inner.convolve(self._folded(x, x_scale, signed), x_scale, scale, bias, signed=signed)

    def convolve_to_end(self, x: Tensor, x_scale: float, *others: Any, signed: bool = False) -> Tensor | None:
        return self.inner.convolve_to_end(self._folded(x, x_scale, signed), x_scale, *others, signed=signed)

    def _folded(self, x: Tensor, x_scale: float, signed: bool) -> Tensor:
        # im2col copies every pixel for each tap: of bytes that is a quarter of what it is of floats
        return self.layer.fold(levels_of(x, x_scale, signed) if self.layer.folds_taps else x)


def levels_of(x: Tensor, x_scale: float, signed: bool) -> Tensor:
    """Quantize float32 activations; return levels as they are."""
    return quantize_activation(x, x_scale, signed) if x.dtype == torch.float32 else x


def unfolded(engine: Engine | Folded) -> Engine:
    """Return the engine that computes: what a folded layer's activations are passed to, else the engine itself."""
    return engine.inner if isinstance(engine, Folded) else engine
