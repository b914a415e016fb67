"""Networks to time: torchvision's with random weights, in float32 or threaded."""

from dataclasses import dataclass, field

import torch
import torchvision
from torch import Tensor, nn

from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.spec import SmtSpec
from bnrecal.quantization.calibrate import calibrate
from bnrecal.quantization.convert import quantize_layers, threaded_copy
from bnrecal.quantization.intercept import conv_modules
from bnrecal.quantization.layer_plan import plan_threads
from bnrecal.quantization.nbsmt_conv import NBSMTConv2d

USUAL, PRUNED = 0.02, 0.4  # shares of zero weights: of trained networks (1.5 to 2.2 %), and of the paper's pruned one


@dataclass(frozen=True)
class Variant:
    """A way to run a network: NB-SMT's threads (None: float32), the share of zero weights, and torch.compile or not."""

    threads: int | None
    zeros: float = USUAL
    compiled: bool = False


COMPILED = "float32 compiled"
VARIANTS = {
    "float32": Variant(None),
    "1T": Variant(1),
    "2T": Variant(2),
    "4T": Variant(4),
    "4T, P40": Variant(4, PRUNED),
    COMPILED: Variant(None, compiled=True),
}


@dataclass(frozen=True)
class Built:
    """A network ready to run.

    Attributes:
        engine: what does its sums.
        zero_weights: share of its threaded convolutions' 8-bit weights; None in float32.
        layers: those convolutions, by name.
    """

    network: nn.Module
    engine: str
    zero_weights: float | None
    layers: dict[str, NBSMTConv2d] = field(default_factory=dict)


def random_images(batch: int, size: int, device: str) -> Tensor:
    """Standard normal (batch, 3, size, size), channels-last, the same ones every time."""
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    return images.to(device).contiguous(memory_format=torch.channels_last)


def build(name: str, variant: Variant, images: Tensor) -> Built:
    """A torchvision network with random weights, of which the smallest of each convolution are zero."""
    try:
        torch.manual_seed(0)
        network: nn.Module = torchvision.models.get_model(name, weights=None)
    except ValueError as error:
        raise BnrecalError(f"torchvision has no model {name!r}") from error
    for conv in conv_modules(network).values():
        _zero_smallest(conv.weight.detach(), variant.zeros)
    network = network.eval().to(images.device).to(memory_format=torch.channels_last)
    if variant.threads is None:
        if variant.compiled:
            network.compile()
        return Built(network, "torch.compile" if variant.compiled else "torch", None)
    with torch.inference_mode():
        convs = calibrate(network, [images])
    layers = quantize_layers(plan_threads(convs, variant.threads, {}), SmtSpec(), "mean_max")
    twin = threaded_copy(network, layers)
    _drop_float_weights(twin, layers)
    with torch.inference_mode():
        twin(images)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    share = zeros / sum(layer.weight.numel() for layer in layers.values())
    engines = {prepared.engine_name for layer in layers.values() for prepared in layer.packed.convolutions()}
    return Built(twin, ", ".join(sorted(engines)), share, layers)


def _zero_smallest(weight: Tensor, share: float) -> None:
    magnitude = weight.abs()
    smallest = max(1, round(share * weight.numel()))
    weight[magnitude <= magnitude.flatten().kthvalue(smallest).values] = 0


def _drop_float_weights(network: nn.Module, layers: dict[str, NBSMTConv2d]) -> None:
    """Drop the weights of the threaded convolutions: inference needs their shapes alone."""
    convs = conv_modules(network)
    for name in layers:
        shape = convs[name].weight.shape
        device = convs[name].weight.device
        del convs[name].weight
        # a tensor and no parameter: a quantized layer compares its parameter with what was quantized
        vars(convs[name])["weight"] = torch.zeros((), device=device).expand(shape)
