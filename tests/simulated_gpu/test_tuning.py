"""How much is timed and compiled for a row of Table 1, and that it is done once however many processes there are."""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
import torchvision
from helpers.fake_cuda import simulated
from torch import nn

pytest.importorskip("triton", reason="torch brings no Triton here: the GPU kernels are not launched")

from helpers.fake_triton_driver import counting, uncompiled

from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels
from bnrecal.nbsmt.engines.gpu import tile_store, tuning
from bnrecal.nbsmt.engines.gpu.tile_store import Tile, TileStore
from bnrecal.nbsmt.geometry import Geometry, Pair
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

GPU = torch.device("cuda:0")
# Images of a batch: layer tables, recalibration, evaluation's last one of 50,000 and all its others. The least first: a
# layer looks at all of its first input, which takes memory.
BATCHES = (16, 128, 336, 512)
MOST_TIMED = 80
MOST_VARIANTS = 60
A = Tile(64, 64, 128, 4, 4)
B = Tile(128, 64, 128, 8, 4)


def convolutions(name: str) -> Iterator[tuple[nn.Conv2d, tuple[int, int]]]:
    """The threaded convolutions of a network of torchvision, each kind once, with the size of what they get."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None).eval()
        seen: dict[str, tuple[nn.Conv2d, tuple[int, int]]] = {}

        def note(conv: nn.Conv2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
            seen.setdefault(f"{conv} {inputs[0].shape}", (conv, (inputs[0].shape[2], inputs[0].shape[3])))

        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels > 3:
                module.register_forward_hook(note)
        network(torch.empty(1, 3, 224, 224))
    yield from seen.values()


def run_to_ends(layer: PreparedConv2d, x: torch.Tensor, scale: torch.Tensor) -> None:
    """A layer with what may follow it in a fused network: levels, or float32, or that with a residual added."""
    shape = layer.layer.output_shape(x)
    residual = torch.empty(shape, device=GPU, memory_format=torch.channels_last)
    for added, levels in ((None, Levels(0.1, False)), (None, None), (residual, None)):
        layer(x, 0.01, scale, end=ConvEnd(scale, scale, 0.0, residual=added, levels=levels))


def run_table_row(name: str) -> None:
    """All layers of the row's cells on the GPU, in every batch size; nothing is computed, memory is not touched."""
    generator = torch.Generator().manual_seed(0)
    for conv, size in convolutions(name):
        w = torch.randint(-128, 128, conv.weight.shape, generator=generator)
        w[torch.rand(w.shape, generator=generator) < 0.02] = 0
        scale = torch.ones(len(w)).to(GPU)
        stride, padding, dilation = [cast(Pair, pair) for pair in (conv.stride, conv.padding, conv.dilation)]
        geometry = Geometry(stride, padding, dilation, conv.groups)
        for threads in (1, 2, 4):
            layer = PreparedConv2d(w.to(torch.int8), SmtSpec(threads), **vars(geometry), device=GPU)
            for images in BATCHES:
                x = torch.empty(images, conv.in_channels, *size, device=GPU, memory_format=torch.channels_last)
                layer(x, 0.01, scale)
                levels = torch.empty(x.shape, dtype=torch.uint8, device=GPU, memory_format=torch.channels_last)
                if images == BATCHES[-1]:
                    run_to_ends(layer, x, scale)
                    run_to_ends(layer, levels, scale)
                if images == BATCHES[0]:
                    layer.accumulate(levels)


@pytest.mark.usefixtures("several_processes")  # no other of much memory beside it
@pytest.mark.slow
def test_a_whole_row_of_table_1_is_tuned_with_few_timings_and_compiled_in_few_variants(tmp_path: Path) -> None:
    with simulated(1, kernels=False), counting(tmp_path) as seen, uncompiled():
        run_table_row("resnet50")
    assert len(tuning.TILES) < seen.timed <= MOST_TIMED
    assert seen.variants["quantize_expand"] == 6  # for 1, 2 and 4 threads, of float32 and of integers
    assert seen.variants.total() <= MOST_VARIANTS


def run_layer() -> None:
    w = torch.ones(64, 64, 1, 1, dtype=torch.int8)
    layer = PreparedConv2d(w, SmtSpec(4), device=GPU)
    layer(torch.rand(2, 64, 8, 8).to(GPU), 0.01, torch.ones(64).to(GPU))


def test_a_second_process_times_nothing_and_another_version_of_the_kernels_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulated(1, kernels=False):
        with counting(tmp_path) as first:
            run_layer()
        with counting(tmp_path) as second:
            run_layer()
        (file,) = (tmp_path / "bnrecal" / "gpu-tiles").glob("*.json")
        assert "NVIDIA-Simulated-0" in file.name
        other = tmp_path / "kernels"
        other.mkdir()
        (other / "convolve.py").write_text("# another version")
        monkeypatch.setattr(tuning, "KERNELS", other)
        with counting(tmp_path) as third:
            run_layer()
    assert first.timed > 1
    assert second.timed == 0
    assert second.launches == first.launches
    assert third.timed == first.timed


@pytest.mark.parametrize("text", ["", "[]", '{"x": 3}', '{"x": "ab"}', "{", '{"KIND": [1, 1, 1, 1, 1]}'])
def test_a_file_of_tiles_that_is_not_ours_is_made_anew(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path))
    TileStore("GPU", "1").choose("KIND", [A, B], lambda: A)
    file = tmp_path / "gpu-tiles" / "GPU-1.json"
    file.write_text(text)
    assert TileStore("GPU", "1").choose("KIND", [A, B], lambda: B) == B
    assert json.loads(file.read_text())["KIND"] == list(B)


def test_what_could_not_be_timed_is_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path))
    store = TileStore("GPU", "1")
    assert store.choose("KIND", [A, B], lambda: None) == A
    assert store.choose("KIND", [A, B], lambda: B) == B


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path / "file"))
    store = TileStore("GPU", "1")
    assert store.choose("KIND", [A, B], lambda: B) == B
    assert store.choose("KIND", [A, B], lambda: None) == B
    assert "not kept for later runs" in caplog.text


def time_slowly(folder: str, marks: str) -> None:
    """A process of its own: choose a tile, and leave a mark when it is this one that times."""
    os.environ["BNRECAL_CACHE"] = folder

    def fastest() -> Tile:
        (Path(marks) / str(os.getpid())).touch()
        time.sleep(0.3)
        return B

    assert TileStore("GPU", "1").choose("KIND", [A, B], fastest) == B


def time_and_die(folder: str) -> None:
    os.environ["BNRECAL_CACHE"] = folder
    TileStore("GPU", "1").choose("KIND", [A, B], lambda: os._exit(9))


def test_of_several_processes_one_times_and_one_that_dies_holds_nobody_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    dying = context.Process(target=time_and_die, args=(str(tmp_path),))
    dying.start()
    dying.join()
    assert dying.exitcode == 9
    marks = tmp_path / "marks"
    marks.mkdir()
    begin = time.monotonic()
    ranks = [context.Process(target=time_slowly, args=(str(tmp_path), str(marks))) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    assert len(list(marks.iterdir())) == 1
    assert time.monotonic() - begin < tile_store.PATIENCE
