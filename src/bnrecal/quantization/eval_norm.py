"""BatchNorm as evaluation computes it: on a GPU by one formula in every network, whether it is fused or not.

On a processor that is PyTorch's own, to the last bit. On a GPU cuDNN rounds in an order of its own, which no other
kernel need follow; there BatchNorm in evaluation is x * alpha + beta, rounded once, for float32 networks too, so that
all cells of a table compute it alike.
"""

from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from bnrecal.nbsmt.engines.apply_end import Ending, alpha_beta, apply_end_, ending
from bnrecal.nbsmt.engines.conv_end import ConvEnd


def evaluation_norm(device: torch.device) -> AbstractContextManager[object]:
    """Return a block in which networks on this device compute BatchNorm in eval mode as evaluation does.

    It can be entered again, for every batch of an evaluation: what it computes once for each layer it keeps. A layer
    that changes in place by one of torch's operations, is loaded anew or gets other tensors is noticed. What torch does
    not count is not: training, outside of the block, between two batches.
    """
    return _OwnNorm() if ending(device) is Ending.OWN else nullcontext()


@dataclass(frozen=True)
class _Kept:
    """Alpha and beta of a layer, and the tensors that both were computed from.

    Attributes:
        parameters: running variance, weight, bias.
        states: of the running mean and these, then.
    """

    parameters: tuple[Tensor | None, ...]
    eps: float
    states: tuple[tuple[int, int], ...]
    values: tuple[Tensor, Tensor]


class _OwnNorm(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._kept: MutableMapping[Tensor, _Kept] = WeakIdKeyDictionary()  # by running mean, which layers do not share

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return self._batch_norm(*args, **kwargs) if func is F.batch_norm else func(*args, **kwargs)

    def _batch_norm(
        self,
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
            if running_mean is not None:
                self._kept.pop(running_mean, None)  # training changes it, uncounted
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        x = input.contiguous(memory_format=torch.channels_last)
        alpha, beta = self._alpha_beta(running_mean, running_var, weight, bias, eps)
        return apply_end_(x, ConvEnd(alpha, beta), torch.empty_like(x))

    def _alpha_beta(
        self, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Return `alpha_beta` of a layer, from the last call where nothing has changed since."""
        parameters = (variance, weight, bias)
        tensors = [tensor for tensor in (mean, *parameters) if tensor is not None]
        if any(tensor.is_inference() for tensor in tensors):  # changes of those are not counted
            return alpha_beta(mean, variance, weight, bias, eps)
        states = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        kept = self._kept.get(mean)
        if kept is not None and kept.states == states and kept.eps == eps and _same(kept.parameters, parameters):
            return kept.values
        made = alpha_beta(mean, variance, weight, bias, eps)
        self._kept[mean] = _Kept(parameters, eps, states, made)
        return made


def _same(some: tuple[Tensor | None, ...], others: tuple[Tensor | None, ...]) -> bool:
    """Return whether these are the same tensors, not just equal ones."""
    return all(one is other for one, other in zip(some, others, strict=True))
