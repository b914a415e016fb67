"""Choosing the device, and naming it."""

import torch

from bnrecal.errors import BnrecalError


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one.

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
        torch.backends.cudnn.deterministic = True  # the same seed is to give the same numbers
        torch.backends.cudnn.benchmark = False
    return device


def describe_device(device: torch.device) -> str:
    """The device's name, as results record it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
