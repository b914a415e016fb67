"""Choosing the device, naming it, and batches that its memory holds."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch

from bnrecal.errors import BnrecalError, first_line

log = logging.getLogger("bnrecal")

T = TypeVar("T")
# Images in a forward pass where nothing else is asked for: more make a GPU no faster, but the first batch later.
DEFAULT_BATCH = {"cpu": 100, "cuda": 512}

Trouble = Callable[[torch.device], str]  # Why a CUDA device cannot do something, in one line; "" where it can.


def choose_device(name: str, *, tf32: bool = False, engine_trouble: Trouble | None = None) -> torch.device:
    """Choose the device, make it the current one, and set how it computes float32.

    Args:
        name: auto (the GPU if there is one that works), cpu, cuda or cuda:N.
        tf32: let NVIDIA GPUs round the operands of float32 convolutions and products to 10 bits, which is PyTorch's
            default for convolutions. Without it float32 is float32.
        engine_trouble: asked about a GPU that computes; `auto` goes to the CPU where it has an answer.

    Returns:
        The device; one of CUDA with its index.

    Raises:
        BnrecalError: for a CUDA device that is not there or that cannot compute.
    """
    device = find_device(name, engine_trouble)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True  # the same seed is to give the same numbers
        torch.backends.cudnn.benchmark = False
    set_tf32(tf32)
    return device


def find_device(name: str, engine_trouble: Trouble | None = None) -> torch.device:
    """The device that `choose_device` chooses; no setting changes."""
    if name == "auto":
        return _automatic(engine_trouble)
    kind, _, index = name.partition(":")
    if kind != "cuda":
        return torch.device(name)
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= devices:
        there = f"cuda:0 to cuda:{devices - 1} alone" if devices else "no usable CUDA device"
        raise BnrecalError(f"device={name}: this machine has {there}; choose one that is there, cpu or auto")
    device = _indexed(index)
    trouble = cuda_trouble(device)
    if trouble:
        raise BnrecalError(f"device={name}: {trouble}; choose cpu or auto")
    slower = engine_trouble(device) if engine_trouble is not None else ""
    if slower:
        _warn(f"device={name}: {slower}; going on without it, slower")
    return device


def _automatic(engine_trouble: Trouble | None) -> torch.device:
    """The GPU if there is one that works, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = _indexed("")
    trouble = cuda_trouble(device)
    if not trouble and engine_trouble is not None:
        trouble = engine_trouble(device)
    if trouble:
        _warn(f"device=auto: {trouble}; going on with the CPU")
        return torch.device("cpu")
    return device


def _indexed(index: str) -> torch.device:
    """The CUDA device of this index, without one the current device: `torch.cuda.set_device` wants an index."""
    return torch.device("cuda", int(index) if index else torch.cuda.current_device())


@cache
def cuda_trouble(device: torch.device) -> str:
    """Why this GPU computes nothing (tried once), in one line; "" where it does."""
    try:
        ones = torch.ones(2, 2, device=device)
        product = (ones @ ones).tolist()
    except RuntimeError as error:  # a driver that fails, no code for this GPU, a GPU that others fill
        return f"the GPU does not compute ({first_line(error)[:160]})"
    return "" if product == [[2.0, 2.0], [2.0, 2.0]] else f"the GPU computes wrong products ({product})"


@cache
def _warn(message: str) -> None:
    """Log a warning, once in a process: a device is chosen several times."""
    log.warning("%s", message)


def set_tf32(on: bool) -> None:
    """Let NVIDIA GPUs round the operands of float32 convolutions and products to 10 bits, or not."""
    for holder, name, values in _tf32_switches():
        setattr(holder, name, values[on])


def tf32_is_on() -> bool:
    """Return whether float32 convolutions are computed in TF32 on NVIDIA GPUs."""
    holder, name, values = _tf32_switches()[-1]
    return bool(getattr(holder, name) == values[True])


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Compute with TF32 or without, and leave the settings as they were."""
    switches = _tf32_switches()
    before = [getattr(holder, name) for holder, name, _ in switches]
    set_tf32(on)
    try:
        yield
    finally:
        for (holder, name, _), value in zip(switches, before, strict=True):
            setattr(holder, name, value)


def _tf32_switches() -> list[tuple[Any, str, tuple[object, object]]]:
    """PyTorch's switches for products and for convolutions: who holds each, its name, its values for off and on.

    PyTorch 2.9 brought new ones and warns of the old. They are not to be mixed: once a new one is set, reading an old
    one may raise.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        return [(holder, "fp32_precision", ("ieee", "tf32")) for holder in (matmul, cudnn.conv)]
    return [(holder, "allow_tf32", (False, True)) for holder in (matmul, cudnn)]


def describe_device(device: torch.device) -> str:
    """The device's name and how it computes float32, as results record it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {'TF32' if tf32_is_on() else 'float32'}"
    return f"{describe_kind(device)}, {torch.get_num_threads()} workers"


def describe_kind(device: torch.device) -> str:
    """Name what can change float32 sums: the GPU model or the processor's vector instructions, not its cores."""
    return describe_device(device) if device.type == "cuda" else f"cpu, {torch.backends.cpu.get_cpu_capability()}"


def device_kind(device: torch.device) -> str:
    """The name of the GPU, or "cpu": cells of one sweep are to come from one kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def with_fitting_batches(what: str, batch_size: int, work: Callable[[int], T]) -> T:
    """work(batch_size); where the GPU's memory is short, from the start again with half the images in a batch.

    Args:
        what: is being done, for the warning.
    """
    while True:
        try:
            return work(batch_size)
        except torch.cuda.OutOfMemoryError as error:
            if batch_size == 1:
                raise BnrecalError(f"{what}: one image does not fit the GPU's memory: choose device=cpu") from error
        batch_size = (batch_size + 1) // 2
        # only here, after the error and the tensors that its traceback holds are gone
        gc.collect()
        torch.cuda.empty_cache()
        log.warning("%s: out of GPU memory, going on with batch_size=%d", what, batch_size)
