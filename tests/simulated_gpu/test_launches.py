"""Triton compiled and tuned for a GPU that is not here: how much is launched, compiled and timed for a layer."""

from pathlib import Path

import pytest
import torch
from helpers.fake_cuda import simulated

pytest.importorskip("triton", reason="torch brings no Triton here: the GPU kernels are not launched")

from helpers.fake_triton_driver import counting

from bnrecal.nbsmt.engines.gpu.tuning import MOST_TILES, try_launch
from bnrecal.nbsmt.prepared_conv import PreparedConv2d
from bnrecal.nbsmt.spec import SmtSpec

SECOND = torch.device("cuda:1")


def test_a_layer_takes_few_launches_a_batch_and_compiles_and_times_no_tile_twice(tmp_path: Path) -> None:
    w = torch.ones(32, 32, 3, 3, dtype=torch.int8)
    with simulated(2, kernels=False), counting(tmp_path) as seen:
        layer = PreparedConv2d(w, SmtSpec(4), padding=1, device=SECOND)
        assert layer.backend == "triton-int8"
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


def test_the_trial_is_a_launch_whose_result_is_looked_at(tmp_path: Path) -> None:
    with simulated(2, kernels=False), counting(tmp_path) as seen:
        assert not try_launch(SECOND)
        assert seen.launches == {"trial": 1}
