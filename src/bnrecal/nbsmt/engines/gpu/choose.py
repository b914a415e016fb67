"""The engine that imports Triton only where it runs, and the trial of whether it does."""

from functools import cache
from importlib.util import find_spec
from subprocess import SubprocessError

import torch
from torch import Tensor

from bnrecal.errors import first_line
from bnrecal.nbsmt.engines.conv_end import ConvEnd
from bnrecal.nbsmt.engines.engine import ConvLayer, Engine

OLDEST = (8, 0)  # compute capability with the tensor-core instructions that Triton multiplies bytes by


class TritonEngine(Engine):
    """Int8 products and int32 sums on tensor cores; see `triton_engine`."""

    names = ("triton-int8",)
    folds = True
    name = "triton-int8"
    layout = "expanded"

    def __init__(self, layer: ConvLayer) -> None:
        from bnrecal.nbsmt.engines.gpu.triton_engine import TritonConv  # (imports Triton)

        self.conv = TritonConv(layer)

    @classmethod
    def can_run(cls, layer: ConvLayer) -> str:
        if layer.device.type != "cuda" and layer.engine_name is None:  # its interpreter is for tests
            return "made for GPUs"
        if layer.beyond_bytes:
            return layer.beyond_bytes
        return "" if triton_runs(layer.device) else triton_trouble(layer.device) or "Triton has no kernels for it"

    def accumulate(self, x: Tensor) -> Tensor:
        return self.conv.accumulate(x)

    def convolve(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, *, signed: bool = False
    ) -> Tensor:
        return self.conv.convolve(x, x_scale, scale, bias, signed)

    def convolve_to_end(
        self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, end: ConvEnd, *, signed: bool = False
    ) -> Tensor:
        return self.conv.convolve(x, x_scale, scale, bias, signed, end)


def triton_runs(device: torch.device) -> bool:
    """Return whether the Triton kernels run on this device: a recent enough NVIDIA GPU, or Triton's interpreter."""
    if device.type == "cuda":
        return _made_for(device) and not triton_trouble(device)
    if find_spec("triton") is None:
        return False
    from bnrecal.nbsmt.engines.gpu.tuning import INTERPRETED  # (imports Triton)

    return INTERPRETED


@cache
def triton_trouble(device: torch.device) -> str:
    """Return why Triton starts no kernel on a GPU that its kernels are made for, in one line; "" where it does.

    It is tried once. Triton builds a small C module at its first launch, so it wants a C compiler and Python's headers.
    """
    if not _made_for(device):
        return ""
    try:
        from bnrecal.nbsmt.engines.gpu.tuning import try_launch  # (imports Triton)

        wrote = try_launch(device)
    except (RuntimeError, OSError, SubprocessError, AssertionError, ImportError) as error:
        return f"Triton starts no kernel ({first_line(error)[:160]}): it wants a C compiler and Python's headers"
    return "" if wrote else "Triton's kernels write wrong numbers"


def _made_for(device: torch.device) -> bool:
    """Return whether the Triton kernels are made for this device: a recent enough NVIDIA GPU."""
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST
