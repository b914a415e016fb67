"""Small networks that the tests share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnrecal.data.glyphs.draw import CLASSES as GLYPHS
from helpers.imagenet_tree import CLASSES


class SameConv2d(nn.Conv2d):
    """Pads in its own forward, as TensorFlow ports do."""

    def forward(self, input: Tensor) -> Tensor:
        padded = F.pad(input, (0, 1, 0, 1))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Tiny(nn.Module):
    """A plain stem, a threaded convolution, a depthwise one, one with bias and dilation; 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.bn4 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.stem(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.depthwise(x)))
        x = F.relu(self.bn4(self.dilated(x)))
        return self.fc(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]


def tiny(seed: int = 0) -> Tiny:
    """A `Tiny` with seeded weights and plausible running statistics, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Tiny()
        network.train()
        with torch.no_grad():
            for _ in range(20):
                network(torch.rand(16, 3, 12, 12))
    return network.eval()


def images(count: int, seed: int = 0, size: int = 12) -> Tensor:
    """Uniform random images, float32 (count, 3, size, size) in 0..1."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def glyph_net(classes: int = GLYPHS, seed: int = 0) -> nn.Module:
    """A `Tiny` for the embedded data set, with random weights."""
    network = tiny(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.fc = nn.Linear(16, classes)
    return network.eval()


def no_batchnorm(classes: int = GLYPHS) -> nn.Module:
    """Two convolutions and nothing to recalibrate."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


class Free(nn.Module):
    """A convolution that is no module of its own, so that it cannot be quantized."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, groups=x.shape[1])


def free_net(classes: int = GLYPHS) -> nn.Module:
    """Its third convolution, "3", is a `Free`."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), Free(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
    )  # fmt: skip


def negative_net(classes: int = GLYPHS) -> nn.Module:
    """Its second convolution has inputs of either sign."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, classes),
        )  # fmt: skip


def kept_norm_net(classes: int = GLYPHS) -> nn.Module:
    """Its first BatchNorm follows a ReLU, its second a convolution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, classes),
        )  # fmt: skip


GREYS = tuple(range(20, 260, 30))  # of the eight classes of `imagenet_tree.CLASSES`, in their order


class GreyNet(nn.Module):
    """Tells ImageNet's classes of `imagenet_tree` by the grey of the picture; class 0 of 1,001 is the background."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, 1, 1)
        for conv in (self.stem, self.head):
            nn.init.constant_(conv.weight, 1 / conv.in_channels)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        grey = 255 * self.head(self.stem(x)).mean((1, 2, 3))
        logits = torch.full((len(x), 1001), -1e6)
        for label, own in zip(CLASSES, GREYS, strict=True):
            logits[:, 1 + label] = -(grey - own).square()
        return logits


def grey_net() -> nn.Module:
    """A `GreyNet` in eval mode."""
    return GreyNet().eval()


class Aliased(nn.Module):
    """Changes a tensor in place that it holds by another name, which a graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        kept = x = self.conv(x)
        x += 1.0
        y: Tensor = self.norm(x) + kept
        return y.mean((2, 3))
