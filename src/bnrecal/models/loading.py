"""A network loaded by the recipe of its family: built, weights installed, checked against the data set, hashed."""

import logging
from dataclasses import replace
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Interpolation, Preprocessing
from bnrecal.errors import BnrecalError, first_line
from bnrecal.files import log_once
from bnrecal.models.base import Family, LoadedModel, Recipe
from bnrecal.models.checkpoint_file import read_state
from bnrecal.models.weights import state_dict_hash
from bnrecal.network_forms import logits_of, other_precisions, return_logits_, unwrapped

# module:function of this package, imported when asked for: torchvision's model zoo alone takes a second
_FAMILIES = {
    "table1": "paper_networks:paper_recipe",
    "torchvision": "torchvision_models:torchvision_recipe",
    "timm": "timm_models:timm_recipe",
    "custom": "custom:custom_recipe",
}

log = logging.getLogger(__name__)


def load_model(config: ModelConfig, data: ImageSource, *, seed: int = 0) -> LoadedModel:
    """The network that `model.family` and `model.name` ask for, with weights for the data set's classes.

    Networks of 1,001 classes on ImageNet are taken to count the background as class 0, as TensorFlow's do.

    Args:
        seed: of whatever a factory draws at random; the global generator is given back as it was.

    Returns:
        The network in eval mode, float32, on the CPU.

    Raises:
        BnrecalError: if there is no such network, its weights cannot be had, are damaged or not finite, or
            its classes are not the data set's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recipe = _family(config.family)(config, data)
        network = _with_weights(recipe, config.checkpoint_key)
        usual = recipe.preprocessing
        if not isinstance(usual, Preprocessing):
            usual = usual(network)
        preprocessing = _overridden(usual, config)
        if config.family == "custom":
            log_once(f"preprocessing of {config.name}: {preprocessing} (model.resize, interpolation, crop, mean, std)")
        _check_finite(network, recipe.weights)
        offset = _label_offset(config.name, network, preprocessing, data)
    return LoadedModel(config.name, network, preprocessing, offset, recipe.weights, state_dict_hash(network))


def _family(name: str) -> Family:
    module, _, function = _FAMILIES[name].partition(":")
    return cast(Family, getattr(import_module(f"bnrecal.models.{module}"), function))


def _with_weights(recipe: Recipe, key: str | None) -> nn.Module:
    if recipe.checkpoint is None:
        if key is not None:
            raise BnrecalError(f"model.checkpoint_key={key} needs model.checkpoint=PATH, the file it is a place in")
        network = unwrapped(recipe.build({}))
    else:
        state = read_state(recipe.checkpoint, recipe.sha256, key)
        network = unwrapped(recipe.build(state))
        recipe.install(network, state, str(recipe.checkpoint))
    others = other_precisions(network)
    if others:
        log_once(f"{recipe.weights}: the network has {', '.join(others)} weights and is computed in float32")
    return network.to("cpu", torch.float32).eval()


def _overridden(base: Preprocessing, config: ModelConfig) -> Preprocessing:
    """`base` with what `config` sets; a crop without a resize keeps the usual 7/8 of the shorter side."""
    changes: dict[str, object] = {}
    for key in ("mean", "std"):
        values = getattr(config, key)
        if values is not None:
            changes[key] = tuple(float(value) for value in values)
    if config.crop is not None:
        changes["crop"] = config.crop
        changes["resize"] = round(config.crop * 8 / 7)
    if config.resize is not None:
        changes["resize"] = config.resize
    if config.interpolation is not None:
        changes["interpolation"] = cast(Interpolation, config.interpolation)
    return replace(base, **changes)  # type: ignore[arg-type]


def _check_finite(network: nn.Module, weights: str) -> None:
    """Raise BnrecalError, naming the first tensor of the network that is not finite: it may not be from a file."""
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BnrecalError(f"{weights} has NaN or infinity in {key}")


def _label_offset(name: str, network: nn.Module, preprocessing: Preprocessing, data: ImageSource) -> int:
    """Logit index of label 0."""
    outputs = _count_outputs(name, network, preprocessing, data)
    offset = outputs - data.num_classes
    if offset == 1 and data.imagenet_classes:
        log.info("%s has %d classes: class 0 is taken for the background", name, outputs)
    elif offset != 0:
        raise BnrecalError(
            f"{name} tells {outputs} classes apart, data={data.name} has {data.num_classes}: "
            "choose a network and a data set of matching classes"
        )
    return offset


def _count_outputs(name: str, network: nn.Module, preprocessing: Preprocessing, data: ImageSource) -> int:
    """Classes of the logits that a blank image (or, where images have no fixed size, the first) gives.

    A network that returns them in some object returns them alone from then on.
    """
    if preprocessing.crop is not None:
        image = torch.zeros(1, 3, preprocessing.crop, preprocessing.crop)
    else:
        image = data.dataset("val", [0], preprocessing)[0][0][None]
    try:
        with torch.inference_mode():
            output = network(image)
            logits = logits_of(output)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BnrecalError(f"{name} cannot classify an image of {tuple(image.shape)}: {first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BnrecalError(f"{name} must return logits (images, classes) in eval mode, not {found}")
    if logits is not output:
        return_logits_(network)
    return int(logits.shape[1])
