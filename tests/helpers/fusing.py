"""Networks to fuse in evaluation."""

import warnings

import torch
from torch import Tensor, nn
from torchvision import models

from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy
from bnrecal.quantization.layer_plan import plan_threads


def threaded(network: nn.Module, threads: int, batch: Tensor) -> nn.Module:
    """A quantized copy, calibrated on these images; the network itself for 0 threads."""
    if threads == 0:
        return network
    plans = plan_threads(calibrate(network, [batch]), threads, {})
    return threaded_copy(network, quantize_layers(plans, SmtSpec(), "mean_max")).eval()


def with_statistics(network: nn.Module, batch: Tensor) -> nn.Module:
    """The network with running statistics of these images and random BatchNorm parameters, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.train()(batch)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) / 4)
    return network.eval().to(memory_format=torch.channels_last)


def full_network(name: str) -> nn.Module:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network: nn.Module = models.get_model(name, weights=None, **options)
    return network
