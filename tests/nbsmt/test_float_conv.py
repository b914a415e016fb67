"""float32 convolutions: the same to the last bit on one thread and on two, however few the images."""

import pytest
import torch
import torch.nn.functional as F
from helpers.processors import run, skip_if_missing
from torch import Tensor, nn

from bnrecal.nbsmt.float_conv import forward

# SSE4.1 has no fused multiply-add, so oneDNN and a matrix product differ there on any processor.
PRINT_HASHES = """
import hashlib, sys, torch
from torch import nn
from torch.nn.functional import conv2d
from bnrecal.evaluation.accuracy import evaluate
from bnrecal.nbsmt.float_conv import forward
from bnrecal.quantization.calibrate import calibrate

torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(32, 96, 1)
        self.deep = nn.Conv2d(96, 24, 1, padding="same")
    def forward(self, x):
        return self.deep(self.wide(x)).relu()
net = Net().eval()
for images in (1, 2, 12, 15, 16, 20):
    x = torch.rand(images, 32, 32, 32).contiguous(memory_format=torch.channels_last)
    seen = calibrate(net, [x])
    with torch.no_grad():
        y = forward(net, x)
    print(images, [info.sum_max.hex() for info in seen], hashlib.sha256(y.contiguous().numpy().tobytes()).hexdigest())
"""


@pytest.mark.usefixtures("several_processes")
def test_few_images_give_the_same_sums_on_one_thread_and_on_two() -> None:
    skip_if_missing("SSE41")
    printed = [
        run([PRINT_HASHES], {"OMP_NUM_THREADS": threads, "ONEDNN_MAX_CPU_ISA": "SSE41"}) for threads in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].splitlines()) == 6


class Pointwise(nn.Module):
    """1x1 convolutions in every form that a module may ask for them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(6, 4, 1, 1)
        self.grouped = torch.randn(6, 2, 1, 1)
        self.bias = torch.randn(6)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            F.conv2d(x, self.weight),
            F.conv2d(x, self.weight, self.bias, 1, "same"),
            F.conv2d(x, weight=self.weight, bias=None, padding=(1, 2)),
            F.conv2d(x, self.grouped, groups=2, padding="valid"),
            F.conv2d(x, self.weight, stride=2),
            F.conv2d(x.double(), self.weight.double()),
        ]


def test_every_form_of_call_gives_what_pytorch_gives() -> None:
    network = Pointwise()
    x = torch.randn(3, 4, 5, 7)
    for found, expected in zip(forward(network, x), network(x), strict=True):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected)
