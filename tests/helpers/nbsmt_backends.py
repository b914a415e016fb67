"""Every backend there is, and a layer on all of them against the golden model."""

import torch

from bnrecal.nbsmt.conv import PreparedConv2d
from bnrecal.nbsmt.cpu.onednn import Exactness, onednn_exactness
from bnrecal.nbsmt.spec import SmtSpec
from helpers.smt_cases import Layer, expected

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
INT8 = ["onednn-int8"] if onednn_exactness() is not Exactness.NONE else []
PLACES = [("cpu", backend) for backend in (*INT8, "float32", "float64")]
PLACES += [("cuda", backend) for backend in ("float32", "float64") if torch.cuda.is_available()]


def check_on_every_backend(layer: Layer, spec: SmtSpec) -> None:
    x, w, geometry, groups = layer
    golden = expected(layer, spec)
    for device, backend in PLACES:
        if backend == "onednn-int8" and not spec.saturate:
            continue
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
        assert torch.equal(found.cpu(), golden), (device, backend)
