"""A check that a device computes exactly; without it no number comes out of the device."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt import reference
from bnrecal.nbsmt.geometry import Pair
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.options import THREADS

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Case:
    """One layer to try: its kind, the shapes of x (N, C, H, W) and w (O, C / groups, kh, kw), and its geometry."""

    name: str
    x: Shape
    w: Shape
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    extremes: bool = False  # every activation 255, weights of -128 and 127
    then: tuple[Shape, ...] = ()  # further inputs of the same layer


CASES = (
    # Some libraries change their method at 16 images, to one that rounds.
    Case("a 3x3 layer, batch 16", (16, 4, 2, 2), (2, 4, 3, 3), padding=(1, 1)),
    Case("two groups", (1, 16, 3, 3), (4, 8, 3, 3), stride=(2, 2), padding=(1, 1), groups=2),
    # Winograd, which rounds, is for strides of 1.
    Case("two groups of 16 channels", (1, 32, 6, 6), (4, 16, 3, 3), padding=(1, 1), groups=2),
    Case("a depthwise layer", (1, 8, 4, 4), (8, 1, 3, 3), padding=(1, 1), groups=8),
    # Others are right at one size and wrong at the next.
    Case(
        "two filters a channel at several sizes",
        (1, 4, 3, 8),
        (8, 1, 3, 3),
        stride=(1, 2),
        padding=(1, 1),
        groups=4,
        then=((1, 4, 3, 2), (1, 4, 1, 1)),
    ),
    Case("a 5x1 layer at several sizes", (1, 12, 4, 5), (4, 6, 5, 1), (2, 3), (3, 1), groups=2, then=((1, 12, 2, 1),)),
    Case("a strided 1x1 layer", (2, 32, 3, 3), (4, 32, 1, 1), stride=(2, 2)),
    Case("4608 products of extremes", (1, 512, 3, 3), (3, 512, 3, 3), extremes=True),
)

REMEDIES = {
    "cuda": "choose device=cpu",
    "cpu": "cap its libraries with ONEDNN_MAX_CPU_ISA=AVX2 or NUMBA_DISABLE_JIT=1 in the environment",
}


@cache
def check_exact_once(device: torch.device) -> None:
    """Run `check_exact` at the first call in this process."""
    check_exact(device)


def check_exact(device: torch.device) -> None:
    """Compare small layers of every kind at 1, 2 and 4 threads with the per-MAC reference, to the last bit.

    Raises:
        BnrecalError: if the device computes anything else, naming the layer.
    """
    for case in CASES:
        for spec in _specs(case, device):
            _check_case(case, spec, device)


def _specs(case: Case, device: torch.device) -> list[SmtSpec]:
    """Return machines to try a layer with; on a GPU groups also in float32, whose convolution is cuDNN's there."""
    specs = [SmtSpec(threads) for threads in THREADS]
    if device.type == "cuda" and case.groups > 1:
        specs.append(SmtSpec(2, saturate=False))
    return specs


def _check_case(case: Case, spec: SmtSpec, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    w = _weights(case, generator)
    prepared = PreparedConv2d(w, spec, stride=case.stride, padding=case.padding, groups=case.groups, device=device)
    for shape in (case.x, *case.then):
        x = _activations(case, shape, generator)
        sums = prepared.accumulate(x.to(device)).cpu()
        expected = reference.conv2d(
            x,
            w,
            threads=spec.threads,
            saturate=spec.saturate,
            stride=case.stride,
            padding=case.padding,
            groups=case.groups,
        )
        if not torch.equal(sums.long(), expected):
            raise BnrecalError(
                f"device={device} does not compute NB-SMT exactly: {case.name} with {spec.threads} threads differs, "
                f"engine {prepared.engine_name}; {REMEDIES[device.type]}"
            )


def _weights(case: Case, generator: torch.Generator) -> Tensor:
    if case.extremes:
        w = torch.full(case.w, -128, dtype=torch.int8)
        w[1] = 127
        w[2, ::2] = 127  # large sums that cancel
        return w
    w = torch.randint(-128, 128, case.w, generator=generator, dtype=torch.int8)
    w[0, 0] = -128
    return w


def _activations(case: Case, shape: Shape, generator: torch.Generator) -> Tensor:
    if case.extremes:
        return torch.full(shape, 255, dtype=torch.uint8)
    x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    x[torch.rand(x.shape, generator=generator) < 0.4] = 0
    return x
