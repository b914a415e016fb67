"""Cycles of an output-stationary systolic array.

One tile of the output takes `2 * rows + columns + K - 2` cycles: K to stream the operands, the rest to fill the
array from its corner and to drain the results through it (the output-stationary fold of SCALE-Sim: Samajdar et
al., ISPASS 2020). With T threads each processing element takes T operand pairs a cycle, so K shrinks to
ceil(K / T); fill and drain stay.
"""

from collections.abc import Sequence
from math import ceil

from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.layer_plan import LayerPlan


def gemm_cycles(m: int, k: int, n: int, threads: int, rows: int, columns: int) -> int:
    """Cycles for an (m x k) by (k x n) product, outputs m along the rows and n along the columns."""
    tiles = ceil(m / rows) * ceil(n / columns)
    return tiles * (2 * rows + columns + ceil(k / threads) - 2)


def layer_cycles(info: ConvInfo, threads: int, rows: int, columns: int) -> int:
    """Cycles of one convolution for one image: one GEMM a group and call."""
    _, height, width = info.output_shape
    depth = info.weight[0].numel()
    per_group = gemm_cycles(height * width, depth, info.weight.shape[0] // info.geometry.groups, threads, rows, columns)
    return per_group * info.geometry.groups * info.calls


def network_cycles(plans: Sequence[LayerPlan], rows: int, columns: int) -> int:
    """Cycles of all convolutions but the first for one image; float32 ones count as one thread."""
    return sum(layer_cycles(p.conv, max(p.threads, 1), rows, columns) for p in plans if p.conv.order > 0)


def cycle_speedup(plans: Sequence[LayerPlan], rows: int, columns: int) -> float:
    """Return how many times fewer these cycles are than with one thread everywhere; 1 without a second convolution."""
    one = sum(layer_cycles(p.conv, 1, rows, columns) for p in plans if p.conv.order > 0)
    return one / network_cycles(plans, rows, columns) if one else 1.0
