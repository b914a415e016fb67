"""What the cost model chooses where it matters."""

import pytest
import torch
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import DenseShare
from bnrecal.nbsmt.engines.cpu.cost_model import FIGURES, cheapest
from bnrecal.nbsmt.engines.cpu.kernels.instructions import Products
from bnrecal.nbsmt.engines.cpu.onednn import Exactness
from bnrecal.nbsmt.geometry import Geometry, pointwise
from bnrecal.nbsmt.spec import SmtSpec

PLAIN = pointwise(1)
FULL, PAIRED, NONE = Exactness.FULL, Exactness.PAIRED, Exactness.NONE


def weights(channels: int, taps: int, zeros: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(1, 128, (32, channels, taps, taps), generator=generator)
    return (w * (torch.rand(w.shape, generator=generator) >= zeros)).to(torch.int8)


WIDE, NARROW, AVX2 = Products.VNNI_512, Products.VNNI_256, Products.AVX2


@pytest.mark.parametrize(
    ("threads", "channels", "taps", "zeros", "exactness", "products", "chosen"),
    [
        # what sparse weights cost before the first one is more than so few products
        (1, 16, 1, 0.02, PAIRED, AVX2, DenseShare.ALL),
        (1, 96, 1, 0.02, PAIRED, AVX2, DenseShare.ALL),
        (1, 64, 3, 0.02, PAIRED, AVX2, DenseShare.FULL),
        (1, 64, 3, 0.02, FULL, WIDE, DenseShare.FULL),  # all weights fit, there are no sparse weights
        (1, 64, 3, 0.02, FULL, NARROW, DenseShare.FULL),
        (1, 16, 1, 0.02, NONE, AVX2, DenseShare.FULL),
        (1, 1, 3, 0.02, PAIRED, AVX2, DenseShare.FULL),  # no pairs
        (2, 16, 1, 0.02, PAIRED, AVX2, DenseShare.ALL),
        (2, 64, 3, 0.02, PAIRED, AVX2, DenseShare.FULL),
        # many inputs for few outputs: the activation itself costs little beside one operand, two cost much
        (2, 144, 1, 0.02, PAIRED, AVX2, DenseShare.ALL),
        (4, 144, 1, 0.02, PAIRED, AVX2, DenseShare.NONE),
        (2, 512, 3, 0.02, FULL, WIDE, DenseShare.FULL),
        (2, 64, 1, 0.02, FULL, WIDE, DenseShare.ALL),  # two dense channels for each one are quick enough
        (4, 64, 3, 0.02, PAIRED, AVX2, DenseShare.FULL),
        (4, 64, 3, 0.02, FULL, WIDE, DenseShare.FULL),
        (4, 64, 3, 0.02, FULL, NARROW, DenseShare.FULL),
        (2, 64, 3, 0.02, NONE, AVX2, DenseShare.FULL),
        (4, 64, 3, 0.02, NONE, AVX2, DenseShare.NONE),  # two channels of float32 cost more than the sparse kernel
        # pruned: three weights of four lack a partner
        (4, 64, 3, 0.4, PAIRED, AVX2, DenseShare.NONE),
        (4, 64, 3, 0.4, NONE, AVX2, DenseShare.NONE),
        (4, 64, 3, 0.4, FULL, WIDE, DenseShare.NONE),
        (4, 64, 3, 0.4, FULL, NARROW, DenseShare.NONE),
    ],
)
def test_choices(
    threads: int,
    channels: int,
    taps: int,
    zeros: float,
    exactness: Exactness,
    products: Products,
    chosen: DenseShare,
) -> None:
    assert cheapest(weights(channels, taps, zeros), SmtSpec(threads), PLAIN, exactness, products) is chosen


def test_every_class_has_figures_for_all_sums() -> None:
    assert set(FIGURES) == set(Products)
    for figures in FIGURES.values():
        # 8-bit sums are chosen where they are quicker than float32, and need no pairs where they can
        assert figures.dense[FULL] < figures.dense[PAIRED] < figures.dense[NONE] < 1


def test_many_inputs_for_few_outputs_make_sparse_weights_dear() -> None:
    w = weights(128, 1, 0.02)
    many = w.repeat(20, 1, 1, 1)
    strided = Geometry((2, 2), (0, 0), (1, 1), 10)
    assert cheapest(w, SmtSpec(1), PLAIN, PAIRED, AVX2) is DenseShare.ALL
    assert cheapest(many, SmtSpec(1), PLAIN, PAIRED, AVX2) is DenseShare.FULL
    assert cheapest(many, SmtSpec(1), strided, PAIRED, AVX2) is DenseShare.ALL
