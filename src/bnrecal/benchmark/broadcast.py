"""The usual way to emulate an approximate multiplier: every product on its own, by broadcasting. For scale only."""

import torch
from torch import Tensor

from bnrecal.nbsmt.arithmetic import reduce_activation, reduce_weight
from bnrecal.nbsmt.geometry import Geometry, im2col

ROWS = 64  # of the im2col matrix at a time: rows x filters x K products are held at once


def broadcast_conv2d(x: Tensor, w: Tensor, threads: int, geometry: Geometry) -> Tensor:
    """NB-SMT under policy A, one group: uint8 (N, C, H, W) with int8 (O, C, kh, kw) to int32 (N, O, H', W')."""
    steps = -(-w[0].numel() // threads)
    columns = im2col(x, (w.shape[2], w.shape[3]), geometry, steps * threads)
    a = columns.permute(0, 2, 3, 1).reshape(-1, 1, threads, steps).to(torch.int32)
    b = torch.zeros(w.shape[0], steps * threads, dtype=torch.int32, device=w.device)
    b[:, : w[0].numel()] = w.flatten(1)
    sums = torch.cat([_products(rows, b.view(1, -1, threads, steps)) for rows in torch.split(a, ROWS)])
    return sums.view(columns.shape[0], columns.shape[2], columns.shape[3], -1).permute(0, 3, 1, 2)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Products of (M, 1, T, K / T) with (1, O, T, K / T), summed up to (M, O)."""
    active = ((a != 0) & (b != 0)).sum(2, keepdim=True)
    narrow_a = reduce_activation(a).int()
    narrow_b = reduce_weight(b).int()
    product = torch.where(active <= 1, a * b, torch.where(active == 2, narrow_a * b, narrow_a * narrow_b))
    return product.sum((2, 3), dtype=torch.int32)
