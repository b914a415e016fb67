"""The shape side of a convolution: pairs, sizes, im2col."""

from dataclasses import dataclass
from operator import index
from typing import Any

import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Stride, padding, dilation and groups of a convolution; `vars` of it are the arguments of `F.conv2d`."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def output_size(self, size: Pair, kernel: Pair) -> Pair:
        """Return (H', W') from (H, W) and (kh, kw), < 1 where the kernel does not fit."""
        return self._outputs(size[0], kernel[0], 0), self._outputs(size[1], kernel[1], 1)

    def _outputs(self, size: int, kernel: int, dim: int) -> int:
        return (size + 2 * self.padding[dim] - self.dilation[dim] * (kernel - 1) - 1) // self.stride[dim] + 1


def pointwise(groups: int) -> Geometry:
    """Return the geometry of a 1x1 convolution that sees every pixel once."""
    return Geometry((1, 1), (0, 0), (1, 1), groups)


def pad(x: Tensor, g: Geometry) -> Tensor:
    """Return x with its zero border, of any dtype."""
    return F.pad(x, (g.padding[1], g.padding[1], g.padding[0], g.padding[0])) if any(g.padding) else x


def im2col(x: Tensor, kernel: Pair, g: Geometry, columns: int) -> Tensor:
    """Return every output's inputs as channels.

    Args:
        x: (N, C, H, W) of any dtype and layout.
        columns: at least C / groups * kh * kw; what is over is filled with zeros.

    Returns:
        (N, groups * columns, H', W'), channels-last, for each group channel-major as `F.unfold` orders them.
    """
    images = x.shape[0]
    per_group = x.shape[1] // g.groups
    height, width = g.output_size((x.shape[2], x.shape[3]), kernel)
    padded = pad(x, g)
    n, c, h, w = padded.stride()
    taps = padded.as_strided(
        (images, height, width, g.groups, per_group, *kernel),
        (n, h * g.stride[0], w * g.stride[1], c * per_group, c, h * g.dilation[0], w * g.dilation[1]),
        padded.storage_offset(),
    )
    flat = taps.reshape(images, height, width, g.groups, per_group * kernel[0] * kernel[1])
    return F.pad(flat, (0, columns - flat.shape[-1])).flatten(3).permute(0, 3, 1, 2)


def check_geometry(
    channels_per_group: int,
    filters: int,
    stride: int | Pair,
    padding: int | Pair,
    dilation: int | Pair,
    groups: int,
) -> Geometry:
    """Return the geometry as pairs."""
    if not isinstance(groups, int) or groups < 1 or filters % groups:
        raise ValueError(f"groups must divide the {filters} filters, not {groups!r}")
    if channels_per_group < 1:
        raise ValueError(f"a convolution needs at least one input channel a group, not {channels_per_group}")
    return Geometry(
        as_pair("stride", stride, 1), as_pair("padding", padding, 0), as_pair("dilation", dilation, 1), groups
    )


def as_pair(name: str, value: object, least: int) -> Pair:
    """Return an argument of `F.conv2d` as a pair: one number, or one or two in a tuple or list, each at least `least`.

    Raises:
        ValueError: naming the argument and its value.
    """
    values: Any = value if isinstance(value, tuple | list) else (value,)
    if len(values) in (1, 2) and all(hasattr(v, "__index__") and index(v) >= least for v in values):
        return index(values[0]), index(values[-1])
    raise ValueError(f"{name} must be an integer >= {least} or a pair of them, not {value!r}")
