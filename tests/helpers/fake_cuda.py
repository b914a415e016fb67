"""Simulated CUDA devices: tensors that say cuda:N, live on the CPU, and refuse to meet those of another device.

`simulated(count)` is a context manager. Inside it torch has `count` CUDA devices, and whole commands run on them; what
torch itself checks of a device's index it goes on checking. Everything is as before when the block ends.

Two things are not torch's own. Of the Triton kernels (compute capability 8.0 on) all Python runs, every tensor handed
to a launch must lie on the launch's device, and the sums are those of the CPU's engine. Copies and streams happen at
once. Where tensors are moved, name devices with their index: torch asks the driver for a
missing one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.cuda._utils import _get_device_index
from torch.utils._pytree import tree_map

import bnrecal.device
from bnrecal.nbsmt.analysis import self_check
from bnrecal.nbsmt.arithmetic import quantize_activation
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.engine import ConvLayer, levels_of
from bnrecal.nbsmt.engines.gpu import choose, conv_end, int_mm, tuning
from bnrecal.nbsmt.engines.gpu import triton_engine as triton_conv
from bnrecal.nbsmt.engines.gpu.triton_engine import TritonConv
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.quantization import fused
from helpers.cuda_tensor import CudaTensor, OnDevices, held

NAME = "NVIDIA Simulated"
CACHED = (
    bnrecal.device.cuda_trouble,
    bnrecal.device._warn,
    choose.triton_trouble,
    int_mm.int_mm_is_exact,
    self_check.check_exact_once,
)


class Stream:
    """Work on it is done at once."""

    def __init__(self, *_: object) -> None: ...

    def record_event(self) -> "Stream":
        return self

    def wait_event(self, event: object) -> None: ...


class CheckedTritonConv(TritonConv):
    """Runs all of a `TritonConv` but its kernels, whose launches are checked, and answers with the CPU's sums."""

    def __init__(self, layer: ConvLayer) -> None:
        super().__init__(layer)
        self.twin = PreparedConv2d(held(layer.weight).cpu(), layer.spec, **vars(layer.geometry))

    def accumulate(self, x: Tensor) -> Tensor:
        return _like(super().accumulate(x), self.twin.accumulate(held(x)))

    def convolve(
        self,
        x: Tensor,
        x_scale: float,
        scale: Tensor,
        bias: Tensor | None,
        signed: bool,
        end: ConvEnd | None = None,
    ) -> Tensor:
        sums = self.twin.accumulate(levels_of(held(x), x_scale, signed))
        y = sums.float() * held(scale).view(1, -1, 1, 1)
        y = y if bias is None else y + held(bias).detach().view(1, -1, 1, 1)
        y = y if end is None else ended(y, end)
        return _like(super().convolve(x, x_scale, scale, bias, signed, end), y)


def _like(shown: Tensor, values: Tensor) -> Tensor:
    """The values on the device that the kernels would have written to."""
    assert (shown.shape, shown.dtype) == (values.shape, values.dtype)
    return CudaTensor(values.contiguous(memory_format=torch.channels_last), shown.device)


def ended(y: Tensor, end: ConvEnd) -> Tensor:
    """What the kernels make of a convolution's output, in plain torch: of values, not of CUDA tensors."""
    alpha, beta = (held(one).double().view(1, -1, 1, 1) for one in (end.alpha, end.beta))
    y = (y.double() * alpha + beta).float()
    y = y if end.residual is None else y + held(end.residual)
    y = y.clamp(end.lowest, end.highest)
    return y if end.levels is None else quantize_activation(y, end.levels.step, end.levels.signed)


def _end_checked(own: Callable[..., Tensor], x: Tensor, end: ConvEnd, target: Tensor | None = None) -> Tensor:
    """Stands for `gpu.conv_end.end_`: all of it but its kernel, whose launch is checked."""
    y = own(x, end, target)
    held(y).copy_(ended(held(x), end))
    return y


def check_launch(current: Callable[[], int], *args: Any, **kwargs: Any) -> None:
    """Stands for a launch: it happens on the current device, and all tensors must lie there."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.device != torch.device("cuda", current()):
            raise ValueError(f"Pointer argument on {value.device} cannot be accessed from Triton on cuda:{current()}")


def _load(original: Callable[..., Any], file: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """`torch.load` to a simulated device."""
    if map_location is None or torch.device(map_location).type == "cpu":
        return original(file, map_location=map_location, **kwargs)
    found = original(file, map_location="cpu", **kwargs)
    return tree_map(lambda value: value.to(map_location) if isinstance(value, Tensor) else value, found)


def _save(original: Callable[..., Any], content: Any, file: Any) -> None:
    """`torch.save`, of the values."""
    original(tree_map(lambda value: held(value).detach() if isinstance(value, Tensor) else value, content), file)


@contextmanager
def simulated(
    count: int = 1, capability: tuple[int, int] = (9, 0), *, kernels: bool = True, gradients: bool = False
) -> Iterator[None]:
    """So many CUDA devices of this compute capability; below (8, 0) the engine is int-mm, in torch's own code.

    Args:
        kernels: stand for Triton's launches; False: leave them to Triton.
        gradients: let operations be recorded for `backward`, outside of `torch.no_grad()`.
    """
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _forget()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        _patch_devices(patch, count, capability)
        if kernels:
            _patch_triton(patch)
        patch.setattr(torch, "load", partial(_load, torch.load))
        patch.setattr(torch, "save", partial(_save, torch.save))
        patch.setattr(Tensor, "pin_memory", lambda tensor, *_: tensor)
        try:
            with bnrecal.device.tf32(False), torch.set_grad_enabled(gradients), OnDevices():  # type: ignore[no-untyped-call]
                yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
            _forget()


def _forget() -> None:
    """What the package remembers of devices."""
    for function in CACHED:
        function.cache_clear()
    fused._compared_devices.clear()


def _patch_devices(patch: pytest.MonkeyPatch, count: int, capability: tuple[int, int]) -> None:
    """The driver and what asks it; `torch.cuda.set_device` and `current_device` stay torch's own."""
    driver = Driver(count)
    in_c = {"_cuda_setDevice": driver.exchange, "_cuda_getDevice": driver.current, "_cuda_synchronize": answers(None)}
    for name, instead in in_c.items():
        patch.setattr(torch._C, name, instead, raising=False)
    in_python: dict[str, Any] = {
        "_lazy_init": answers(None),
        "is_available": answers(count > 0),
        "is_initialized": answers(True),
        "device_count": answers(count),
        "_exchange_device": driver.exchange,
        "_maybe_exchange_device": driver.exchange,
        "get_device_name": lambda device=None: f"{NAME} {driver.index(device)}",
        "get_device_capability": answers(capability),
        "synchronize": answers(None),
        "empty_cache": answers(None),
        "manual_seed_all": answers(None),
        "Stream": Stream,
        "current_stream": Stream,
        "stream": nullcontext,
        "memory_allocated": answers(0),
        "max_memory_allocated": answers(1),
        "reset_peak_memory_stats": answers(None),
    }
    for name, instead in in_python.items():
        patch.setattr(torch.cuda, name, instead)


def answers(value: object) -> Callable[..., Any]:
    """A function of anything that returns `value`."""
    return lambda *_, **__: value


class Driver:
    """How many devices there are, and which is the current one."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.now = 0

    def current(self) -> int:
        return self.now

    def exchange(self, index: int) -> int:
        """Make another device current; the one before."""
        before = self.now
        if index >= 0:
            assert index < self.count, f"CUDA error: invalid device ordinal {index}"
            self.now = index
        return before

    def index(self, device: Any) -> int:
        """The index of a device, or the current one."""
        found: int = _get_device_index(device, optional=True)
        assert found < self.count, f"Invalid device id {found}"
        return found


def _patch_triton(patch: pytest.MonkeyPatch) -> None:
    """The kernels."""
    check = partial(check_launch, torch.cuda.current_device)
    patch.setattr(triton_conv, "launch", check)
    patch.setattr(triton_conv, "multiply", check)
    patch.setattr(conv_end, "launch", check)
    patch.setattr(conv_end, "end_", partial(_end_checked, conv_end.end_))
    patch.setattr(tuning, "try_launch", answers(True))
    patch.setattr(triton_conv, "TritonConv", CheckedTritonConv)
