"""Each engine by name: one that this machine lacks is reported as skipped, with the reason."""

import pytest
import torch
from helpers.nbsmt_engines import ALL_PLACES, PLACES, USUAL, check_on_engine, check_on_every_engine, why_not
from helpers.smt_cases import integers

from bnrecal.nbsmt import engines
from bnrecal.nbsmt.engines import ENGINES, choose_engine
from bnrecal.nbsmt.engines.cpu.dense_sparse import kernels_compile
from bnrecal.nbsmt.engines.engine import ConvLayer
from bnrecal.nbsmt.engines.torch_engine import TorchEngine
from bnrecal.nbsmt.geometry import Geometry, pointwise
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

GEOMETRY = {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 2)}
CPU = torch.device("cpu")


@pytest.mark.parametrize(("device", "engine", "lacks"), ALL_PLACES, ids=lambda value: value if value else "here")
def test_an_engine_equals_the_golden_model(device: str, engine: str, lacks: str) -> None:
    if lacks:
        pytest.skip(lacks)
    x = integers((2, 8, 6, 7), 0, 256, 0.3, 0.3, 1).byte()
    checked = 0
    for groups in (1, 8):
        w = integers((8, 8 // groups, 3, 3), -128, 128, 0.1, 0.3, 2).char()
        for threads in (1, 2, 4):
            spec = SmtSpec(threads, "A", True, "half_even", True)
            if not why_not(w, spec, device, engine, groups, GEOMETRY):
                check_on_engine((x, w, GEOMETRY, groups), spec, device, engine)
                checked += 1
    assert checked


def test_every_engine_of_this_processor_is_compared() -> None:
    known = {engine for _, engine, _ in ALL_PLACES}
    assert known == {name for engine in ENGINES for name in engine.names}
    here = {engine for device, engine in PLACES if device == "cpu"}
    assert {"float32", "float64"} <= here
    assert not kernels_compile() or "depthwise" in here


def test_engines_that_have_no_such_layer_are_left_out_of_the_count() -> None:
    x = torch.full((1, 4, 3, 3), 200, dtype=torch.uint8)
    w = torch.full((4, 4, 3, 3), 100, dtype=torch.int8)
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    most = check_on_every_engine((x, w, geometry, 1), SmtSpec(2))
    assert most > check_on_every_engine((x, w, geometry, 1), SmtSpec(2, saturate=False))


def test_the_first_engine_that_can_run_a_layer_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(TorchEngine):
        names = ("picky",)  # type: ignore[assignment]

        @classmethod
        def can_run(cls, layer: ConvLayer) -> str:
            return "" if layer.spec.threads == 2 else "two threads alone"

    monkeypatch.setattr(engines, "ENGINES", (Picky, *ENGINES))
    w = torch.ones(4, 4, 1, 1, dtype=torch.int8)
    assert isinstance(PreparedConv2d(w, SmtSpec(2)).engine, Picky)
    assert not isinstance(PreparedConv2d(w, SmtSpec(4)).engine, Picky)
    with pytest.raises(ValueError, match=r"'picky' cannot run .*: two threads alone"):
        PreparedConv2d(w, SmtSpec(4), engine="picky")
    with pytest.raises(ValueError, match=r"one of \('picky', 'triton-int8', 'int-mm', .*not 'pickier'"):
        PreparedConv2d(w, SmtSpec(4), engine="pickier")


def test_the_engines_for_gpus_run_on_a_processor_only_by_name() -> None:
    for weight, threads, groups in USUAL:
        layer = ConvLayer(weight, SmtSpec(threads), pointwise(groups), CPU)
        assert not {"triton-int8", "int-mm"} & set(choose_engine(layer).names)


@pytest.mark.parametrize(
    ("channels", "kernel", "threads", "geometry", "folds", "skips"),
    [
        (8, 1, 4, pointwise(1), False, False),
        (8, 1, 4, Geometry((2, 1), (0, 0), (1, 1), 1), False, True),
        (8, 1, 4, Geometry((2, 1), (0, 1), (1, 1), 1), False, False),  # its border counts
        (8, 3, 4, Geometry((2, 2), (0, 0), (1, 1), 1), False, False),
        (6, 3, 4, Geometry((2, 2), (1, 1), (1, 1), 2), True, False),
        (6, 1, 4, Geometry((2, 2), (0, 0), (1, 1), 2), True, False),
        (3, 3, 1, Geometry((1, 1), (1, 1), (1, 1), 1), False, False),
    ],
)
def test_what_follows_from_the_shape_of_a_layer(
    channels: int, kernel: int, threads: int, geometry: Geometry, folds: bool, skips: bool
) -> None:
    weight = torch.ones(2, channels, kernel, kernel, dtype=torch.int8)
    layer = ConvLayer(weight, SmtSpec(threads), geometry, CPU)
    assert (layer.folds_taps, layer.skips_pixels) == (folds, skips)
    assert (layer.folded is layer) == (not folds and not skips)
    assert layer.folded.folded is layer.folded
    if folds or skips:
        x = torch.zeros(3, channels * geometry.groups, 5, 4, dtype=torch.uint8)
        folded = layer.fold(x)
        assert folded.shape[1] == layer.folded.weight.shape[1] * geometry.groups
        assert layer.folded.output_shape(folded) == layer.output_shape(x)
