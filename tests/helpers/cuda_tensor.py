"""A tensor that says cuda:N, lives on the CPU, and refuses to meet tensors of another device."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class CudaTensor(Tensor):
    """A tensor that says cuda:N and keeps its values in `held`, a CPU tensor of the same layout."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "CudaTensor":
        with torch.inference_mode(False):  # a view of a tensor from outside is none of inference mode
            made: CudaTensor = Tensor._make_wrapper_subclass(
                cls,
                held.size(),
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                layout=held.layout,
                requires_grad=False,  # gradients belong to the values
                device=device,
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"CudaTensor({self.held}, device={self.device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied: Tensor = CudaTensor(self.held.detach().clone(), self.device)
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    # Gradients are those of the values, whose graph the operations build: torch's own would ask the driver for streams.
    @property
    def requires_grad(self) -> bool:
        return self.held.requires_grad

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        self.held.requires_grad = on

    def requires_grad_(self, requires_grad: bool = True) -> "CudaTensor":
        self.held.requires_grad_(requires_grad)
        return self

    @property
    def grad(self) -> "CudaTensor | None":
        return None if self.held.grad is None else CudaTensor(self.held.grad, self.device)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self.held.grad = held(value)

    def backward(self, *_: Any, **__: Any) -> None:
        self.held.backward()  # type: ignore[no-untyped-call]

    def detach(self) -> "CudaTensor":
        return CudaTensor(self.held.detach(), self.device)

    # torch asks the driver for the current device before each of the following
    def tolist(self) -> Any:
        return self.held.tolist()

    def item(self) -> Any:
        return self.held.item()

    def __int__(self) -> int:
        return int(self.held)

    def __index__(self) -> int:
        return int(self.held)

    def __float__(self) -> float:
        return float(self.held)

    def __bool__(self) -> bool:
        return bool(self.held)

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.held.detach().clone()

    def copy_(self, source: Tensor, non_blocking: bool = False) -> "CudaTensor":  # noqa: ARG002
        self.held.copy_(held(source))
        return self

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        if self.held.is_contiguous(memory_format=memory_format):
            return self
        return CudaTensor(self.held.contiguous(memory_format=memory_format), self.device)

    def __invert__(self) -> Tensor:
        return torch.bitwise_not(self)

    def nonzero(self) -> Tensor:  # type: ignore[override]
        return CudaTensor(self.held.nonzero(), self.device)

    def __getitem__(self, index: Any) -> Tensor:
        _check_indexing(self, index)
        return CudaTensor(self.held[tree_map(held, index)], self.device)

    def __setitem__(self, index: Any, value: Any) -> None:
        _check_indexing(self, index, value)
        self.held[tree_map(held, index)] = held(value)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        """An address to compare with others; the arithmetic's kernels, which would follow it, are refused."""
        asking = str(sys._getframe(1).f_globals.get("__name__"))
        if asking.startswith("bnrecal.nbsmt"):
            raise RuntimeError(f"{asking} asks for the address of a CUDA tensor")
        return self.held.data_ptr()

    def record_stream(self, stream: object) -> None:
        """Nothing is freed early here."""


class OnDevices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends to `compute` what makes or moves tensors to a CUDA device without having one among its arguments."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        devices = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.device)]
        to_cuda = any(device.type == "cuda" for device in devices)
        if to_cuda or any(issubclass(kind, CudaTensor) for kind in types):
            return compute(func, args, kwargs)
        return func(*args, **kwargs)


def compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, after the check that torch's CUDA kernels make: one device alone.

    Raises:
        RuntimeError: as torch does where tensors of several devices meet.
    """
    if torch.is_inference_mode_enabled():  # which leaves operations that consist of others whole
        with OnDevices():  # type: ignore[no-untyped-call]
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    device = _common_device(func, args, tensors)
    named = kwargs.get("device")
    if named is not None:
        device = torch.device(named)
        kwargs = {**kwargs, "device": CPU, **({"pin_memory": False} if "pin_memory" in kwargs else {})}
    known = {id(held(tensor)): tensor for tensor in tensors}
    found = _on_values(func, tree_map(held, args), tree_map(held, kwargs))
    return tree_map(partial(_labelled, known, device), found)


def held(value: Any) -> Any:
    """The values of a CUDA tensor; anything else as it is."""
    return value.held if isinstance(value, CudaTensor) else value


def _labelled(known: dict[int, Tensor], device: torch.device, value: Any) -> Any:
    """A result as its device shows it; what an operation wrote into is the tensor it was given."""
    if not isinstance(value, Tensor):
        return value
    if id(value) in known:
        return known[id(value)]
    return value if device.type == "cpu" else CudaTensor(value, device)


def _common_device(func: Any, args: Sequence[Any], tensors: list[Tensor]) -> torch.device:
    if func in COPIES:
        return tensors[0].device
    if func in INDEXING:
        _check_indexing(*args[:3])
        return tensors[0].device
    devices = {tensor.device for tensor in tensors if tensor.device != CPU or tensor.dim() > 0}
    if len(devices) > 1:
        shapes = [(str(tensor.device), tuple(tensor.shape)) for tensor in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {shapes}")
    return devices.pop() if devices else CPU


def _check_indexing(tensor: Tensor, index: Any, value: Any = None) -> None:
    """Raise RuntimeError unless indices lie on the CPU or with the tensor, and a value of any size with it."""
    wrong = [
        leaf for leaf in tree_leaves(index) if isinstance(leaf, Tensor) and leaf.device not in (CPU, tensor.device)
    ]
    if isinstance(value, Tensor) and value.dim() > 0 and value.device != tensor.device:
        wrong.append(value)
    if wrong:
        raise RuntimeError(f"Expected all tensors to be on the same device: {tensor.device} meets {wrong[0].device}")


def _on_values(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if func is not aten.cudnn_batch_norm.default:
        return _recorded(func, args, kwargs)
    y, mean, deviation = _recorded(aten.native_batch_norm, args, kwargs)
    return y, mean, deviation, torch.empty(0, dtype=torch.uint8)


def _recorded(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operation; where gradients are wanted, as from outside, so that autograd sees it."""
    wanted = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves((args, kwargs)))
    with enable_reentrant_dispatch() if wanted and torch.is_grad_enabled() else nullcontext():
        return func(*args, **kwargs)
