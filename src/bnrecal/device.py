"""Choosing the device, naming it, and batches that its memory holds."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from bnrecal.errors import BnrecalError

log = logging.getLogger("bnrecal")

T = TypeVar("T")
# Images in a forward pass where nothing else is asked for: more make a GPU no faster, but the first batch later.
DEFAULT_BATCH = {"cpu": 100, "cuda": 512}


def choose_device(name: str, *, tf32: bool = False) -> torch.device:
    """`auto` is the GPU if there is one.

    Args:
        tf32: let NVIDIA GPUs round the operands of float32 convolutions and products to 10 bits, which is PyTorch's
            default for convolutions. Without it float32 is float32.

    Raises:
        BnrecalError: for a CUDA device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise BnrecalError(f"device={name}: this machine has {found} usable CUDA devices; choose cpu or auto")
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True  # the same seed is to give the same numbers
        torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    return device


def describe_device(device: torch.device) -> str:
    """The device's name and how it computes float32, as results record it."""
    if device.type == "cuda":
        precision = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    return f"{describe_kind(device)}, {torch.get_num_threads()} workers"


def describe_kind(device: torch.device) -> str:
    """What of the device may change a float32 sum: the GPU, or the processor's vectors, but not its cores."""
    return describe_device(device) if device.type == "cuda" else f"cpu, {torch.backends.cpu.get_cpu_capability()}"


def with_fitting_batches(what: str, batch_size: int, work: Callable[[int], T]) -> T:
    """work(batch_size); where the GPU's memory is short, from the start again with half the images in a batch.

    Args:
        what: is being done, for the warning.

    Raises:
        BnrecalError: if a single image does not fit.
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
