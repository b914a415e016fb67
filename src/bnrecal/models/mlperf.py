"""The two MLPerf image classifiers, with the state_dict names of their published PyTorch checkpoints.

Both come from TensorFlow: they pad on the right and below where PyTorch pads on both sides, and their 1001
classes start with one for the background. Source of the facts: the MLPerf inference reference and its PyTorch
port.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from bnrecal.models.narrow import NarrowResNet

# Output channels at full width and stride of the depthwise-separable blocks.
_MOBILENET_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


class MlperfResNet50(NarrowResNet):
    """ResNet-50 v1.5: stride in the 3x3 convolutions; names as torchvision's."""

    def __init__(self, *, width: int = 64, num_classes: int = 1001) -> None:
        norm_layer = partial(nn.BatchNorm2d, eps=1.001e-5)
        super().__init__(Bottleneck, (3, 4, 6, 3), width=width, num_classes=num_classes, norm_layer=norm_layer)
        self.maxpool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, stride=2))


class MlperfMobileNetV1(nn.Module):
    """MobileNet-v1 with `multiplier` times the channels of version 1.0."""

    def __init__(self, *, multiplier: float = 1.0, num_classes: int = 1001) -> None:
        super().__init__()
        channels = round(32 * multiplier)
        layers: list[nn.Module] = [_stem(channels)]
        for full, stride in _MOBILENET_BLOCKS:
            wider = round(full * multiplier)
            layers.append(_separable(channels, wider, stride))
            channels = wider
        layers.append(nn.AdaptiveAvgPool2d(1))  # 7x7 of a 224x224 image
        self.model = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.model(images)
        logits: Tensor = self.fc(torch.flatten(features, 1))
        return logits


def _stem(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, channels, 3, stride=2, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3),
        nn.ReLU6(),
    )


def _separable(channels: int, wider: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3, then 1x1; each with BatchNorm and ReLU6."""
    padding = 1 if stride == 1 else 0
    return nn.Sequential(
        nn.ZeroPad2d((0, stride - 1, 0, stride - 1)),
        nn.Conv2d(channels, channels, 3, stride=stride, padding=padding, groups=channels, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3),
        nn.ReLU6(),
        nn.Conv2d(channels, wider, 1, bias=False),
        nn.BatchNorm2d(wider, eps=1e-3),
        nn.ReLU6(),
    )
