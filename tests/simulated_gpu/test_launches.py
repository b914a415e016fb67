"""Triton compiled and tuned for a GPU that is not here: how much is launched, compiled and timed for a layer."""

from pathlib import Path

import pytest
import torch
from helpers.fake_cuda import simulated

pytest.importorskip("triton", reason="torch brings no Triton here: the GPU kernels are not launched")

from helpers.fake_triton_driver import counting

from bnrecal.nbsmt.engines.apply_end import apply_end_
from bnrecal.nbsmt.engines.conv_end import ConvEnd, Levels
from bnrecal.nbsmt.engines.gpu import tuning
from bnrecal.nbsmt.engines.gpu.tile_store import Tile
from bnrecal.nbsmt.engines.gpu.triton_engine import aligned
from bnrecal.nbsmt.engines.gpu.tuning import HOPPER_TILES, MOST_TILES, beside_residual, try_launch
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

SECOND = torch.device("cuda:1")


def test_a_layer_takes_few_launches_a_batch_and_compiles_and_times_no_tile_twice(tmp_path: Path) -> None:
    w = torch.ones(32, 32, 3, 3, dtype=torch.int8)
    with simulated(2, kernels=False), counting(tmp_path) as seen:
        layer = PreparedConv2d(w, SmtSpec(4), padding=1, device=SECOND)
        assert layer.engine_name == "triton-int8"
        x = torch.rand(4, 32, 8, 8).to(SECOND)
        scale = torch.ones(32).to(SECOND)
        layer(x, 0.01, scale)
        first = (sum(seen.variants.values()), seen.timed)
        assert 2 <= seen.launches["quantize_expand"] + seen.launches["conv_int8"] <= 4
        assert 1 < seen.timed <= MOST_TILES
        assert sum(seen.variants.values()) <= seen.timed + 1  # the expansion besides
        before = seen.launches.total()
        for _ in range(3):
            layer(x, 0.01, scale)
        assert seen.launches.total() - before <= 3 * 4
        assert (sum(seen.variants.values()), seen.timed) == first


def ends(y: torch.Tensor) -> list[ConvEnd]:
    """What may follow a layer of this output: as float32 or as levels, with a residual or without."""
    filters = y.shape[1]
    alpha = torch.ones(filters).to(SECOND)
    beta = torch.zeros(filters).to(SECOND)
    levels = Levels(0.1, False)
    return [ConvEnd(alpha, beta, 0.0, 6.0, residual, some) for residual in (None, y) for some in (None, levels)]


@pytest.mark.parametrize("groups", [1, 32])
def test_what_follows_a_layer_takes_no_launch_and_no_timing(groups: int, tmp_path: Path) -> None:
    w = torch.ones(32, 32 // groups, 3, 3, dtype=torch.int8)
    with simulated(2, kernels=False), counting(tmp_path) as seen:
        layer = PreparedConv2d(w, SmtSpec(1), padding=1, groups=groups, device=SECOND)
        x = torch.rand(4, 32, 8, 8).to(SECOND)
        scale = torch.ones(32).to(SECOND)
        y = layer(x, 0.01, scale)
        alone = seen.launches.total()
        timed = seen.timed
        for end in ends(y):
            before = seen.launches.total()
            found = layer(x, 0.01, scale, end=end)
            assert found.dtype == (torch.float32 if end.levels is None else torch.uint8)
            assert seen.launches.total() - before == alone <= 2
        assert seen.timed == timed
        assert seen.variants["depthwise" if groups > 1 else "conv_int8"] <= timed + 5


def test_an_end_of_its_own_is_one_launch(tmp_path: Path) -> None:
    y = torch.rand(4, 30, 8, 8).contiguous(memory_format=torch.channels_last)
    with simulated(2, kernels=False), counting(tmp_path) as seen:
        there = y.to(SECOND)
        for end in ends(there):
            apply_end_(there, end)
        assert seen.launches == {"end_values": 4}


def test_a_residual_takes_half_of_a_tile_that_leaves_it_no_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Tile] = []
    own = tuning._start

    def noted(tile: Tile, arguments: dict[str, object]) -> None:
        started.append(tile)
        own(tile, arguments)

    w = torch.ones(256, 128, 1, 1, dtype=torch.int8)
    with simulated(2, kernels=False), counting(tmp_path):
        layer = PreparedConv2d(w, SmtSpec(1), device=SECOND)
        x = torch.rand(4, 128, 8, 8).to(SECOND)
        scale = torch.ones(256).to(SECOND)
        monkeypatch.setattr(tuning, "_fastest", lambda tiles, _: tiles[0])
        y = layer(x, 0.01, scale)
        monkeypatch.setattr(tuning, "_start", noted)
        for end in ends(y):
            layer(x, 0.01, scale, end=end)
    largest = HOPPER_TILES[0]
    half = beside_residual(largest)
    assert half.rows * half.filters == largest.rows * largest.filters // 2
    assert started == [largest, largest, half, half]


def test_levels_that_begin_within_a_word_are_copied() -> None:
    levels = torch.arange(33, dtype=torch.uint8)
    x = levels[1:].view(1, 2, 2, 8).permute(0, 3, 1, 2)
    moved = aligned(x, 16)
    assert torch.equal(moved, x)
    assert moved.storage_offset() == 0
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert aligned(x, 1) is x
    assert aligned(levels[4:], 16).storage_offset() == 4


def test_the_trial_is_a_launch_whose_result_is_looked_at(tmp_path: Path) -> None:
    with simulated(2, kernels=False), counting(tmp_path) as seen:
        assert not try_launch(SECOND)
        assert seen.launches == {"trial": 1}
