"""torchvision's residual networks at any width."""

from collections.abc import Callable, Sequence

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet with `width` channels where it has 64: the same layers, names and initialization.

    Args:
        block, layers: BasicBlock or Bottleneck, and how many of them in each of the four stages.
        width: channels of the stem; stage s has width * 2**s (times the block's expansion).
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        *,
        width: int = 64,
        num_classes: int = 1000,
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        # torchvision fixes the widths in its constructor: it makes a short skeleton, the stages follow.
        super().__init__(block, [1, 1, 1, 1], num_classes, norm_layer=norm_layer)
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(width)
        for stage, depth in enumerate(layers):
            made = self._make_layer(block, width * 2**stage, depth, stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", made)
        self.fc = nn.Linear(width * 8 * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
