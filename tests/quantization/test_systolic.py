import torch

from bnrecal.nbsmt.geometry import Geometry
from bnrecal.quantization.calibrate import ConvInfo
from bnrecal.quantization.systolic import layer_cycles


def test_a_convolution_of_one_filter_is_counted() -> None:
    one = ConvInfo("c", 1, torch.zeros(1, 8, 3, 3), (8, 4, 4), (1, 4, 4), Geometry((1, 1), (1, 1), (1, 1), 1), calls=1)
    assert layer_cycles(one, 4, 16, 16) == 2 * 16 + 16 + 72 // 4 - 2  # one tile of 16 outputs
