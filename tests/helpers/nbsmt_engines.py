"""Every engine on every device here, and a layer on all of them against the golden model."""

import pytest
import torch

from bnrecal.nbsmt.engines import choose_engine, engine_names
from bnrecal.nbsmt.engines.engine import ConvLayer
from bnrecal.nbsmt.geometry import Geometry
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
from helpers.smt_cases import Layer, expected

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PLAIN = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
# some of the layers that every engine there is was made for
USUAL = ((torch.ones(4, 4, 3, 3, dtype=torch.int8), 4, 1), (torch.ones(4, 1, 3, 3, dtype=torch.int8), 1, 4))


def why_not(
    weight: torch.Tensor, spec: SmtSpec, device: str, engine: str, groups: int, geometry: dict[str, tuple[int, int]]
) -> str:
    """Return why an engine does not run a layer on a device, or "" where it does."""
    layer = ConvLayer(weight, spec, Geometry(**geometry, groups=groups), torch.device(device), engine)
    try:
        choose_engine(layer)
    except ValueError as error:
        return str(error)
    return ""


def missing(device: str, engine: str) -> str:
    """Return why none of the usual layers runs by this engine, or "" where one does."""
    reason = ""
    for weight, threads, groups in USUAL:
        reason = why_not(weight, SmtSpec(threads), device, engine, groups, PLAIN)
        if not reason:
            return ""
    return reason


# every engine with what this machine lacks for it, so that tests can say that they were skipped
ALL_PLACES = [(device, engine, missing(device, engine)) for device in DEVICES for engine in engine_names()]
PLACES = [(device, engine) for device, engine, lacks in ALL_PLACES if not lacks]


def prepare_or_skip(
    w: torch.Tensor, spec: SmtSpec, *, device: str, engine: str, groups: int = 1, **geometry: int | tuple[int, int]
) -> PreparedConv2d:
    """Prepare a layer on an engine; skip the test, with the reason, where that has no such layers."""
    try:
        return PreparedConv2d(w, spec, groups=groups, device=device, engine=engine, **geometry)
    except ValueError as error:
        pytest.skip(str(error))


def check_on_every_engine(layer: Layer, spec: SmtSpec) -> int:
    """Compare a layer with the golden model on every engine that has such layers; return how many those are."""
    _, w, geometry, groups = layer
    checked = 0
    for device, engine in PLACES:
        if not why_not(w, spec, device, engine, groups, geometry):
            check_on_engine(layer, spec, device, engine)
            checked += 1
    assert checked >= len(DEVICES)  # float64 has every layer
    return checked


def check_on_engine(layer: Layer, spec: SmtSpec, device: str, engine: str | None) -> None:
    x, w, geometry, groups = layer
    prepared = PreparedConv2d(
        w,
        spec,
        stride=geometry["stride"],
        padding=geometry["padding"],
        dilation=geometry["dilation"],
        groups=groups,
        device=device,
        engine=engine,
    )
    found = prepared.accumulate(x.to(device))
    assert found.dtype == torch.int32
    assert torch.equal(found.cpu(), expected(layer, spec)), (device, engine)
