"""What the cost model chooses where it matters."""

import pytest
import torch
from torch import Tensor

from bnrecal.nbsmt.decompose.dense_sparse import DenseShare
from bnrecal.nbsmt.engines.cpu.cost_model import cheapest
from bnrecal.nbsmt.engines.cpu.onednn import Exactness
from bnrecal.nbsmt.geometry import Geometry, pointwise
from bnrecal.nbsmt.spec import SmtSpec

PLAIN = pointwise(1)
FULL, PAIRED, NONE = Exactness.FULL, Exactness.PAIRED, Exactness.NONE


def weights(channels: int, taps: int, zeros: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(1, 128, (32, channels, taps, taps), generator=generator)
    return (w * (torch.rand(w.shape, generator=generator) >= zeros)).to(torch.int8)


@pytest.mark.parametrize(
    ("threads", "channels", "taps", "zeros", "exactness", "chosen"),
    [
        (
            1,
            16,
            1,
            0.02,
            PAIRED,
            DenseShare.ALL,
        ),  # what sparse weights cost before the first one is more than so few products
        (1, 96, 1, 0.02, PAIRED, DenseShare.ALL),
        (1, 64, 3, 0.02, PAIRED, DenseShare.FULL),
        (1, 64, 3, 0.02, FULL, DenseShare.FULL),  # all weights fit, there are no sparse weights
        (1, 16, 1, 0.02, NONE, DenseShare.FULL),
        (1, 1, 3, 0.02, PAIRED, DenseShare.FULL),  # no pairs
        (2, 16, 1, 0.02, PAIRED, DenseShare.ALL),
        (2, 64, 3, 0.02, PAIRED, DenseShare.FULL),
        (4, 64, 3, 0.02, PAIRED, DenseShare.FULL),
        (4, 64, 3, 0.02, FULL, DenseShare.FULL),
        (4, 64, 3, 0.02, NONE, DenseShare.FULL),
        (4, 64, 3, 0.4, PAIRED, DenseShare.NONE),  # pruned: three weights of four lack a partner
        (4, 64, 3, 0.4, NONE, DenseShare.NONE),
        (
            4,
            64,
            3,
            0.4,
            FULL,
            DenseShare.ALL,
        ),  # so cheap is a dense weight that twelve cost less than half a sparse one
    ],
)
def test_choices(
    threads: int, channels: int, taps: int, zeros: float, exactness: Exactness, chosen: DenseShare
) -> None:
    assert cheapest(weights(channels, taps, zeros), SmtSpec(threads), PLAIN, exactness) is chosen


def test_many_inputs_for_few_outputs_make_a_list_dear() -> None:
    w = weights(256, 1, 0.02)
    assert cheapest(w, SmtSpec(1), PLAIN, PAIRED) is DenseShare.ALL
    assert cheapest(w.repeat(20, 1, 1, 1), SmtSpec(1), PLAIN, PAIRED) is DenseShare.FULL
    assert cheapest(w.repeat(20, 1, 1, 1), SmtSpec(1), Geometry((2, 2), (0, 0), (1, 1), 10), PAIRED) is DenseShare.ALL
