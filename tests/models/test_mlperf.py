"""The MLPerf classifiers: names and shapes of the published checkpoints, TensorFlow's padding."""

import torch
from torch import nn
from torchvision.models import resnet50

from bnrecal.models.mlperf import MlperfMobileNetV1, MlperfResNet50


def test_resnet50_has_torchvisions_names_and_1001_classes() -> None:
    with torch.device("meta"):
        ours = MlperfResNet50().state_dict()
        theirs = resnet50(num_classes=1001).state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[name].shape == theirs[name].shape for name in ours)


def test_resnet50_strides_in_the_3x3_and_uses_tensorflows_epsilon() -> None:
    with torch.device("meta"):
        network = MlperfResNet50()
    assert network.layer2[0].conv1.stride == (1, 1)
    assert network.layer2[0].conv2.stride == (2, 2)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert all(norm.eps == 1.001e-5 for norm in norms)


def test_resnet50_pools_after_a_zero_pad_right_and_below() -> None:
    with torch.device("meta"):
        pool = MlperfResNet50().maxpool
    image = torch.full((1, 1, 4, 4), -1.0)  # negative, so that a pad of zeros shows where it is
    assert torch.equal(pool(image), torch.tensor([[[[-1.0, 0.0], [0.0, 0.0]]]]))
    assert pool(torch.zeros(1, 1, 112, 112)).shape == (1, 1, 56, 56)


def test_mobilenet_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        network = MlperfMobileNetV1()
    state = network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["model.0.1.weight"] == (32, 3, 3, 3)
    assert shapes["model.1.1.weight"] == (32, 1, 3, 3)
    assert shapes["model.1.2.running_var"] == (32,)
    assert shapes["model.1.4.weight"] == (64, 32, 1, 1)
    assert shapes["model.1.5.weight"] == (64,)
    assert shapes["model.13.4.weight"] == (1024, 1024, 1, 1)
    assert shapes["fc.weight"] == (1001, 1024)
    assert not any(name.endswith(".bias") and name.rsplit(".", 2)[1] in "14" for name in shapes)
    assert sum(tensor.numel() for tensor in network.parameters()) == 4_233_001
    assert len(state) == 27 * 6 + 2  # a weight and five BatchNorm entries a convolution, and the classifier


def test_mobilenet_pads_below_and_right_where_it_strides() -> None:
    with torch.device("meta"):
        network = MlperfMobileNetV1()
    strides = []
    for block in list(network.model)[1:14]:
        assert isinstance(block, nn.Sequential)
        pad, depthwise = block[0], block[1]
        assert isinstance(pad, nn.ZeroPad2d)
        assert isinstance(depthwise, nn.Conv2d)
        stride = depthwise.stride[0]
        strides.append(stride)
        assert tuple(pad.padding) == (0, stride - 1, 0, stride - 1)
        assert depthwise.padding == ((1, 1) if stride == 1 else (0, 0))
        assert depthwise.groups == depthwise.in_channels
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


def test_mobilenet_takes_224_pixels_down_to_7() -> None:
    network = MlperfMobileNetV1(multiplier=0.125, num_classes=5).eval()
    with torch.no_grad():
        features = network.model[:-1](torch.zeros(1, 3, 224, 224))
        assert features.shape == (1, 128, 7, 7)
        assert network(torch.zeros(2, 3, 224, 224)).shape == (2, 5)
