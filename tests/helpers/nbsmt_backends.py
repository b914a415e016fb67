"""Every backend there is, and a layer on all of them against the golden model."""

import torch

from bnrecal.nbsmt.engines.cpu.onednn import Exactness, onednn_exactness
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from helpers.smt_cases import Layer, expected

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
INT8 = ["onednn-int8"] if onednn_exactness() is not Exactness.NONE else []
PLACES = [("cpu", backend) for backend in (*INT8, "float32", "float64")]
PLACES += [("cuda", backend) for backend in ("float32", "float64") if torch.cuda.is_available()]


NO_CUDA = "" if torch.cuda.is_available() else "this machine has no usable CUDA device"
NO_INT8 = "" if INT8 else "oneDNN's 8-bit convolution is not exact, or not there, on this processor"
# every backend with what this machine lacks for it, so that tests can say that they were skipped
ALL_PLACES = [("cpu", "onednn-int8", NO_INT8), ("cpu", "float32", ""), ("cpu", "float64", "")]
ALL_PLACES += [("cuda", "float32", NO_CUDA), ("cuda", "float64", NO_CUDA)]


def check_on_every_backend(layer: Layer, spec: SmtSpec) -> None:
    for device, backend in PLACES:
        if backend == "onednn-int8" and not spec.saturate:
            continue
        check_on_backend(layer, spec, device, backend)


def check_on_backend(layer: Layer, spec: SmtSpec, device: str, backend: str | None) -> None:
    x, w, geometry, groups = layer
    prepared = PreparedConv2d(
        w,
        spec,
        stride=geometry["stride"],
        padding=geometry["padding"],
        dilation=geometry["dilation"],
        groups=groups,
        device=device,
        backend=backend,
    )
    found = prepared.accumulate(x.to(device))
    assert found.dtype == torch.int32
    assert torch.equal(found.cpu(), expected(layer, spec)), (device, backend)
