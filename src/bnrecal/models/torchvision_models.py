"""torchvision's classification networks, with their published ImageNet weights or one's own checkpoint."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.models.base import Recipe
from bnrecal.models.published import Published, fetch
from bnrecal.models.weights import State, install

WEIGHTS = "IMAGENET1K_V1"  # the paper's
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# Published before dots were forbidden inside module names.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def torchvision_recipe(config: ModelConfig, data: ImageSource) -> Recipe:
    """A network of torchvision by its name there.

    Args:
        config: `checkpoint` instead of the published weights; `kwargs` go to torchvision's constructor, but
            for `weights`, which names another published set than IMAGENET1K_V1.

    Raises:
        BnrecalError: if torchvision has no such network or weights, they cannot be had, or the data set has other
            classes and there is no checkpoint. Building raises it if torchvision does not know an argument.
    """
    name = config.name
    if name not in list_models(module=models):
        raise BnrecalError(f"model.name={name}: no classification network of torchvision")
    kwargs = dict(config.kwargs or {})
    entry = _entry(name, str(kwargs.pop("weights", WEIGHTS)))
    if config.checkpoint is not None:
        path = Path(config.checkpoint).expanduser()
        source = config.checkpoint
    elif not data.imagenet_classes:
        raise BnrecalError(
            f"data={data.name} has classes of its own: give model.checkpoint=PATH of {name} trained on it"
        )
    elif entry is None:
        raise BnrecalError(f"torchvision publishes no {WEIGHTS} of {name}: give model.checkpoint=PATH")
    else:
        path = fetch(_published(entry))
        source = f"torchvision {type(entry).__name__}.{entry.name}"
    return Recipe(
        lambda state: _build(name, {"num_classes": data.num_classes, **kwargs}, state),
        weights=source,
        checkpoint=path,
        preprocessing=_preprocessing(entry),
        install=partial(_install, name),
    )


def _build(name: str, kwargs: dict[str, Any], state: State) -> nn.Module:
    """The network, with the auxiliary classifiers that `state` has weights of.

    GoogLeNet and Inception v3 take torchvision's normalisation back (`transform_input`), as their published
    weights need.
    """
    auxiliary = _AUXILIARY.get(name, ())
    if auxiliary:
        has = any(key.startswith(auxiliary) for key in state)
        kwargs = {"transform_input": True, "init_weights": False, "aux_logits": has, **kwargs}
    try:
        network: nn.Module = get_model(name, weights=None, **kwargs)
    except (TypeError, ValueError) as error:
        given = {key: value for key, value in kwargs.items() if key != "num_classes"}
        raise BnrecalError(f"torchvision cannot build {name} with model.kwargs={given}: {error}") from error
    return network


def _install(name: str, network: nn.Module, state: State, source: str) -> None:
    """Load the weights; the auxiliary classifiers, which only training uses, are taken off."""
    state = {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    install(network, state, source)
    auxiliary = _AUXILIARY.get(name, ())
    for head in auxiliary:
        setattr(network, head, None)
    if auxiliary:
        network.aux_logits = False  # type: ignore[assignment]


def _entry(name: str, weights: str) -> WeightsEnum | None:
    """The published weights; None where the default name has none (a checkpoint may take their place)."""
    published = get_model_weights(name)
    found: WeightsEnum | None = published.__members__.get(weights)
    if found is None and weights != WEIGHTS:
        raise BnrecalError(f"{name} has no weights {weights}: choose from {', '.join(published.__members__)}")
    return found


def _published(entry: WeightsEnum) -> Published:
    """torchvision's files carry the first eight digits of their SHA-256 in their names."""
    file = entry.url.rsplit("/", 1)[-1]
    return Published(entry.url, file, Path(file).stem.rsplit("-", 1)[-1])


def _preprocessing(entry: WeightsEnum | None) -> Preprocessing:
    """The transform published with the weights."""
    if entry is None:
        return Preprocessing()
    transform = entry.transforms()
    return Preprocessing(
        resize=transform.resize_size[0],
        crop=transform.crop_size[0],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,  # bilinear or bicubic
    )
