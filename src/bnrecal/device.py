"""Choosing the device, and making sure that its arithmetic is exact before a number comes out of it."""

import torch

from bnrecal.errors import BnrecalError
from bnrecal.smt import PreparedConv2d, SmtSpec, reference


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
        check_exact(device)
    return device


def check_exact(device: torch.device) -> None:
    """Compare one small layer at 1, 2 and 4 threads with the per-MAC reference, to the last bit.

    Raises:
        BnrecalError: if the device computes anything else.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, 8, 4, 4), generator=generator, dtype=torch.uint8)
    x[torch.rand(x.shape, generator=generator) < 0.4] = 0
    w = torch.randint(-128, 128, (4, 8, 3, 3), generator=generator, dtype=torch.int8)
    for threads in (1, 2, 4):
        prepared = PreparedConv2d(w, SmtSpec(threads), stride=1, padding=1, dilation=1, groups=1, device=device)
        found = prepared.accumulate(x.to(device)).cpu()
        if not torch.equal(found.long(), reference.conv2d(x, w, threads=threads, padding=(1, 1)).long()):
            raise BnrecalError(f"device={device} does not compute NB-SMT exactly with {threads} threads: choose cpu")


def describe_device(device: torch.device) -> str:
    """The device's name, as results record it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
