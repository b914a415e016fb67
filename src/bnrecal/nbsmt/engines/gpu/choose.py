"""Which exact 8-bit convolution a CUDA device runs."""

from functools import cache
from importlib.util import find_spec
from subprocess import SubprocessError
from typing import Protocol

import torch
from torch import Tensor

from bnrecal.errors import first_line
from bnrecal.nbsmt.engines.gpu.int_mm import MOST_WEIGHTS, IntMMConv, int_mm_is_exact
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.policies.custom import is_custom
from bnrecal.nbsmt.spec import SmtSpec

TRITON, INT_MM = "triton-int8", "int-mm"
CUDA_BACKENDS = (TRITON, INT_MM)
OLDEST = (8, 0)  # compute capability with the tensor-core instructions that Triton multiplies bytes by


class WholeConv(Protocol):
    """A convolution that quantizes, expands and multiplies whole batches itself."""

    def accumulate(self, x: Tensor) -> Tensor:
        """int32 sums (N, O, H', W') of uint8 activations, or int8 ones at one thread; exact."""

    def convolve(self, x: Tensor, x_scale: float, scale: Tensor, bias: Tensor | None, signed: bool) -> Tensor:
        """scale[o] * sums + bias[o] in float32, of float32 activations quantized in steps of x_scale."""


def can_run(name: str, weight: Tensor, spec: SmtSpec, groups: int, device: torch.device) -> bool:
    """Whether a backend runs this layer on this device, exactly. Rounding up to 256 and 128 leaves bytes."""
    if (not spec.saturate and spec.threads > 1) or is_custom(spec.policy):
        return False
    if name == TRITON:
        return triton_runs(device)
    return groups == 1 and weight[0].numel() <= MOST_WEIGHTS and int_mm_is_exact(device)


def triton_runs(device: torch.device) -> bool:
    """Whether the Triton kernels run on this device: a recent enough NVIDIA GPU, or Triton's interpreter."""
    if device.type == "cuda":
        return _made_for(device) and not triton_trouble(device)
    if find_spec("triton") is None:
        return False
    from bnrecal.nbsmt.engines.gpu.tuning import INTERPRETED  # (imports Triton)

    return INTERPRETED


@cache
def triton_trouble(device: torch.device) -> str:
    """Why Triton starts no kernel on a GPU that its kernels are made for (tried once), in one line; "" where it does.

    Triton builds a small C module at its first launch, so it wants a C compiler and Python's headers.
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
    """Whether the Triton kernels are made for this device: a recent enough NVIDIA GPU."""
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST


def choose_cuda(weight: Tensor, spec: SmtSpec, groups: int, device: torch.device) -> str | None:
    """The fastest backend that runs this layer on a CUDA device; None: leave it to float32."""
    if device.type != "cuda":
        return None
    return next((name for name in CUDA_BACKENDS if can_run(name, weight, spec, groups, device)), None)


def make(name: str, weight: Tensor, spec: SmtSpec, geometry: Geometry, device: torch.device) -> WholeConv:
    """The backend of this name for int8 weights (O, C / groups, kh, kw)."""
    if name == TRITON:
        from bnrecal.nbsmt.engines.gpu.triton_engine import TritonConv

        return TritonConv(weight, spec, geometry, device)
    return IntMMConv(weight, spec, geometry, device)
