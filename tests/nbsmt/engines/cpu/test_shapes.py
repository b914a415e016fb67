"""Inputs of several shapes through one layer, at every instruction set: geometries that oneDNN got wrong at some."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processors import PROCESSORS, run, skip_if_missing
from helpers.smt_cases import integers

from bnrecal.nbsmt.engines.cpu import dense_sparse
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, OneDnnConv, onednn_exactness
from bnrecal.nbsmt.engines.integer_conv import FloatConv
from bnrecal.nbsmt.geometry import Geometry, Pair
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

needs_onednn = pytest.mark.skipif(onednn_exactness() is Exactness.NONE, reason="oneDNN is not exact or not quick here")


@dataclass(frozen=True)
class Layer:
    """One layer, and the inputs (N, H, W) that it sees in turn."""

    threads: int
    signed: bool
    weight: tuple[int, int, int, int]  # (O, C / groups, kh, kw)
    geometry: Geometry
    inputs: list[tuple[int, int, int]]
    engine: str | None = None


LAYERS = [
    # one channel a group, several filters: neighbouring taps in 16 bits, and reads beyond the image
    Layer(
        1, False, (32, 1, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 8), [(2, 1, 1), (2, 14, 14), (1, 30, 30), (2, 1, 1)]
    ),
    Layer(1, False, (16, 1, 3, 3), Geometry((1, 2), (1, 1), (1, 1), 8), [(4, 8, 8), (4, 8, 2), (4, 8, 4), (1, 5, 1)]),
    Layer(1, True, (12, 1, 1, 2), Geometry((2, 2), (2, 1), (3, 3), 3), [(1, 9, 9), (1, 9, 2), (2, 5, 2), (1, 1, 2)]),
    Layer(1, True, (16, 1, 1, 2), Geometry((1, 1), (2, 1), (1, 3), 4), [(1, 4, 9), (1, 4, 2)]),
    Layer(1, True, (32, 1, 1, 1), Geometry((1, 1), (1, 1), (1, 3), 32), [(2, 1, 6), (1, 7, 33)]),
    Layer(4, False, (16, 1, 3, 3), Geometry((1, 2), (1, 1), (2, 1), 8), [(4, 8, 8), (4, 8, 2)]),
    # outputs that see nothing but border
    Layer(1, True, (24, 3, 5, 1), Geometry((2, 3), (3, 1), (1, 1), 8), [(1, 5, 9), (1, 2, 1), (1, 5, 2), (1, 2, 1)]),
    # images one wide that ended the process
    Layer(1, False, (8, 12, 1, 1), Geometry((1, 2), (0, 1), (1, 2), 1), [(1, 2, 9), (1, 2, 1)]),
    Layer(2, False, (8, 12, 2, 1), Geometry((2, 2), (0, 1), (2, 2), 1), [(1, 8, 1), (1, 8, 2)]),
    Layer(4, False, (12, 4, 4, 2), Geometry((3, 2), (1, 3), (1, 2), 1), [(1, 13, 1), (2, 3, 1)]),
    # one channel by float32, where a wide stride takes a row
    Layer(
        1,
        False,
        (3, 1, 5, 4),
        Geometry((1, 3), (1, 0), (1, 1), 1),
        [(1, 9, 12), (1, 9, 6), (1, 5, 5), (1, 9, 4)],
        "float32",
    ),
    Layer(1, False, (2, 1, 4, 6), Geometry((1, 3), (3, 2), (3, 1), 1), [(2, 7, 4), (1, 7, 2)], "float32"),
]
CHECK = """
import sys, torch
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec
for number, (threads, engine, w, options, steps) in enumerate(torch.load(sys.argv[1])):
    layer = PreparedConv2d(w, SmtSpec(threads), engine=engine, **options)
    for step, (x, sums) in enumerate(steps):
        for _ in range(2):
            torch.full((x.numel() + 4096,), 255, dtype=torch.uint8)  # left in memory behind what comes next
            wrong = int((layer.accumulate(x) != sums).sum())
            if wrong:
                print(f"layer {number}, input {step} {tuple(x.shape)}: {wrong} wrong by {layer.engine_name}")
"""


def options(g: Geometry) -> dict[str, Any]:
    return {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of layers with inputs and their sums in float64, which other tests compare with the golden model."""
    found: list[Any] = []
    for layer in LAYERS:
        w = integers(layer.weight, -128, 128, 0.05, 0.1, len(found)).to(torch.int8)
        g = layer.geometry
        exact = PreparedConv2d(w, SmtSpec(layer.threads), engine="float64", **options(g))
        steps: list[tuple[torch.Tensor, torch.Tensor]] = []
        for images, rows, columns in layer.inputs:
            x = integers((images, w.shape[1] * g.groups, rows, columns), 0, 256, 0.1, 0.1, len(steps)).to(torch.uint8)
            x = (x.to(torch.int16) - 128).to(torch.int8) if layer.signed else x
            steps.append((x, exact.accumulate(x)))
        found.append((layer.threads, layer.engine, w, options(g), steps))
    path = tmp_path_factory.mktemp("cases") / "cases.pt"
    torch.save(found, path)
    return path


@pytest.mark.usefixtures("several_processes")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_shape_at_every_instruction_set(processor: str, cases: Path) -> None:
    skip_if_missing(processor)
    cap = {"ONEDNN_MAX_CPU_ISA": processor}  # numba's kernels stay this processor's: compiled already
    assert run([CHECK, str(cases)], cap) == ""


@needs_onednn
def test_the_choice_belongs_to_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_sparse, "sums_are_exact", lambda _level, shape, *_: shape[2] > 4)
    w = integers((6, 4, 3, 3), -128, 128, 0.1, 0.1, 1).to(torch.int8)
    layer = PreparedConv2d(w, SmtSpec(1), padding=1)
    exact = PreparedConv2d(w, SmtSpec(1), padding=1, engine="float64")
    assert layer.engine_name == "onednn-int8"
    for size, engine in ((8, "onednn-int8"), (4, "onednn-int8 and float32"), (8, "onednn-int8 and float32")):
        for low, dtype in ((0, torch.uint8), (-128, torch.int8)):
            x = integers((2, 4, size, size), low, low + 256, 0.1, 0.1, size).to(dtype)
            assert torch.equal(layer.accumulate(x), exact.accumulate(x))
            scale = torch.rand(6)
            bias = torch.randn(6)
            y = layer(x.float(), 1.0, scale, bias, signed=low < 0)
            z = exact(x.float(), 1.0, scale, bias, signed=low < 0)
            assert torch.allclose(y, z, rtol=1e-5, atol=1e-2)
        assert layer.engine_name == engine


def test_one_channel_a_group_never_reaches_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr(OneDnnConv, "sums", forbidden)
    monkeypatch.setattr(OneDnnConv, "convolve", forbidden)
    w = integers((8, 1, 3, 3), -128, 128, 0.1, 0.1, 1).to(torch.int8)
    for groups in (1, 4, 8):
        for engine in (None, "onednn-int8") if onednn_exactness() is not Exactness.NONE else (None,):
            x = integers((2, groups, 6, 5), 0, 256, 0.1, 0.1, 2).to(torch.uint8)
            exact = PreparedConv2d(w, SmtSpec(1), groups=groups, engine="float64").accumulate(x)
            assert torch.equal(PreparedConv2d(w, SmtSpec(1), groups=groups, engine=engine).accumulate(x), exact)


@pytest.mark.parametrize(
    ("size", "kernel", "dilation", "padding", "narrow"),
    [
        ((9, 9), (3, 3), (1, 1), (1, 1), False),
        ((9, 3), (3, 3), (1, 1), (1, 1), False),
        ((9, 2), (3, 3), (1, 1), (1, 1), True),
        ((9, 2), (3, 2), (1, 1), (0, 0), False),
        ((2, 9), (3, 3), (1, 1), (1, 0), True),
        ((9, 6), (3, 3), (1, 3), (0, 1), True),
        ((9, 9), (1, 1), (1, 1), (0, 1), True),  # columns of nothing but border
    ],
)
def test_onednn_gets_narrow_images_with_their_border(
    size: Pair, kernel: Pair, dilation: Pair, padding: Pair, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = integers((3, 2, *kernel), -128, 128, 0.1, 0.1, 1).to(torch.int8)
    seen = []

    def run_plainly(_: OneDnnConv, x: torch.Tensor, g: Geometry, *_rest: object) -> torch.Tensor:
        seen.append(g.padding)
        return FloatConv(w, g, 255, torch.float64, x.device).accumulate(x.to(torch.int16) - 7).float()

    monkeypatch.setattr(OneDnnConv, "_pack", lambda *_: (None, None, None))
    monkeypatch.setattr(OneDnnConv, "_run", run_plainly)
    x = integers((2, 2, *size), 0, 256, 0.1, 0.1, 2).to(torch.uint8)
    g = Geometry((1, 2), padding, dilation, 1)
    sums = OneDnnConv(lambda: w, g, 7).sums(x)
    assert torch.equal(sums, FloatConv(w, g, 255, torch.float64, x.device).accumulate(x.to(torch.int16) - 7).float())
    assert seen == [(0, 0) if narrow else padding]
