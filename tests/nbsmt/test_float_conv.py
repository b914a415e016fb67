"""float32 convolutions: the same to the last bit on one thread and on two, however few the images."""

from helpers.processors import run, skip_if_missing

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


def test_few_images_give_the_same_sums_on_one_thread_and_on_two() -> None:
    skip_if_missing("SSE41")
    printed = [
        run([PRINT_HASHES], {"OMP_NUM_THREADS": threads, "ONEDNN_MAX_CPU_ISA": "SSE41"}) for threads in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].splitlines()) == 6
