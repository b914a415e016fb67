"""Cycles by the formula, on an array that is no square, so that rows and columns cannot change places."""

import pytest
import torch

from bnrecal.nbsmt.geometry import Geometry
from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.layer_plan import ExceptionKind, LayerPlan
from bnrecal.quantization.systolic import cycle_speedup, gemm_cycles, layer_cycles, network_cycles

ROWS, COLUMNS = 8, 4
FILL = 2 * ROWS + COLUMNS - 2


def conv(order: int, filters: int, channels: int, groups: int = 1, calls: int = 1) -> ConvInfo:
    """A 3x3 convolution of 4x5 pixels."""
    weight = torch.zeros(filters, channels // groups, 3, 3)
    geometry = Geometry((1, 1), (1, 1), (1, 1), groups)
    return ConvInfo("c", order, weight, (channels, 4, 5), (filters, 4, 5), geometry, calls=calls)


def test_a_convolution_of_one_filter_is_counted() -> None:
    one = ConvInfo("c", 1, torch.zeros(1, 8, 3, 3), (8, 4, 4), (1, 4, 4), Geometry((1, 1), (1, 1), (1, 1), 1), calls=1)
    assert layer_cycles(one, 4, 16, 16) == 2 * 16 + 16 + 72 // 4 - 2  # one tile of 16 outputs


@pytest.mark.parametrize(("m", "n", "tiles"), [(8, 4, 1), (9, 4, 2), (8, 5, 2), (17, 9, 9), (4, 8, 2)])
def test_pixels_lie_along_the_rows_and_filters_along_the_columns(m: int, n: int, tiles: int) -> None:
    assert gemm_cycles(m, 10, n, 1, ROWS, COLUMNS) == tiles * (FILL + 10)
    assert gemm_cycles(m, 10, n, 4, ROWS, COLUMNS) == tiles * (FILL + 3)  # ten operand pairs, four at a time


def test_every_group_and_every_call_is_a_product_of_its_own() -> None:
    # 20 pixels are three tiles, 6 filters two
    assert layer_cycles(conv(1, 6, 4), 2, ROWS, COLUMNS) == 3 * 2 * (FILL + 18)
    # two groups of 3 filters, one tile wide, with half of the inputs
    assert layer_cycles(conv(1, 6, 4, groups=2), 2, ROWS, COLUMNS) == 2 * 3 * (FILL + 9)
    assert layer_cycles(conv(1, 6, 4, calls=3), 2, ROWS, COLUMNS) == 3 * 3 * 2 * (FILL + 18)


def test_the_first_convolution_is_left_out_and_one_thread_is_what_others_are_compared_with() -> None:
    plans = [LayerPlan(conv(0, 6, 4), 0, False, ExceptionKind.FIRST), LayerPlan(conv(1, 6, 4), 4, False)]
    plans.append(LayerPlan(conv(2, 4, 2), 0, False, ExceptionKind.SKIPPED))
    threaded = 3 * 2 * (FILL + 9)
    float32 = 3 * (FILL + 18)
    assert network_cycles(plans, ROWS, COLUMNS) == threaded + float32
    one = 3 * 2 * (FILL + 36) + float32
    assert cycle_speedup(plans, ROWS, COLUMNS) == pytest.approx(one / (threaded + float32))
    assert cycle_speedup(plans[:1], ROWS, COLUMNS) == 1.0
