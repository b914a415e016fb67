"""float32 convolutions whose last bits do not depend on how many cores compute them.

PyTorch gives a 1x1 convolution of fewer than 16 images to oneDNN where it may use several threads, and to a matrix
product where it may use one (`use_mkldnn` in its Convolution.cpp). The two add up in different orders. Here such a
convolution goes to oneDNN always, as every other does of itself.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bnrecal.nbsmt.geometry import Pair, as_pair

FEW_IMAGES = 16  # from so many on PyTorch asks oneDNN on one thread too


def forward(network: Callable[[Tensor], Any], images: Tensor) -> Any:
    """Return network(images), the same on any number of cores.

    Args:
        images: (N, C, H, W).
    """
    with _SteadyConvolutions() if len(images) < FEW_IMAGES else nullcontext():
        return network(images)


def conv2d(
    input: Tensor,  # names, order and defaults of torch.conv2d
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return `torch.conv2d` of these arguments, the same on any number of cores."""
    if not (_depends_on_threads(input, weight) and as_pair("stride", stride, 1) == (1, 1)):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    border = (0, 0) if isinstance(padding, str) else as_pair("padding", padding, 0)  # "same" adds none to 1x1
    y: Tensor = torch.ops.aten.mkldnn_convolution(input, weight, bias, border, (1, 1), (1, 1), groups)
    return y


def _depends_on_threads(x: Tensor, weight: Tensor) -> bool:
    few = x.dim() == 4 and 0 < len(x) < FEW_IMAGES
    pointwise = tuple(weight.shape[2:]) == (1, 1)
    one_dnn: Any = torch.backends.mkldnn
    asked = x.device.type == "cpu" and x.dtype == torch.float32 and one_dnn.is_available() and one_dnn.enabled
    return few and pointwise and asked


class _SteadyConvolutions(TorchFunctionMode):
    """Lets each `conv2d` under it be computed by the one above."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = conv2d if func is torch.conv2d else func
        return function(*args, **(kwargs or {}))
