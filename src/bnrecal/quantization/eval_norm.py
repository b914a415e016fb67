"""BatchNorm as evaluation computes it: on a GPU by one formula in every network, whether it is fused or not.

On a processor that is PyTorch's own, to the last bit. On a GPU cuDNN rounds in an order of its own, which no other
kernel need follow; there BatchNorm in evaluation is x * alpha + beta, rounded once, for float32 networks too, so that
all cells of a table compute it alike.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bnrecal.nbsmt.engines.apply_end import Ending, alpha_beta, apply_end_, ending
from bnrecal.nbsmt.engines.conv_end import ConvEnd


def evaluation_norm(device: torch.device) -> AbstractContextManager[object]:
    """Return a block in which networks on this device compute BatchNorm in eval mode as evaluation does."""
    return _OwnNorm() if ending(device) is Ending.OWN else nullcontext()


class _OwnNorm(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return _batch_norm(*args, **kwargs) if func is F.batch_norm else func(*args, **kwargs)


def _batch_norm(
    input: Tensor,  # batch_norm's own name for it, which callers may use
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    values = (input, running_mean, running_var, weight, bias)
    float32 = all(value is None or value.dtype == torch.float32 for value in values)
    if training or running_mean is None or running_var is None or input.dim() != 4 or not float32:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x = input.contiguous(memory_format=torch.channels_last)
    alpha, beta = alpha_beta(running_mean, running_var, weight, bias, eps)
    return apply_end_(x, ConvEnd(alpha, beta), torch.empty_like(x))
