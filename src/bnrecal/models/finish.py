"""From a network and its weights to a LoadedModel: what every family shares."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Interpolation, Preprocessing
from bnrecal.errors import BnrecalError, first_line
from bnrecal.models.base import LoadedModel
from bnrecal.models.weights import check_state, read_state, state_dict_hash

IMAGENET_LABELLED = ("imagenet", "imagenette")
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile put these before every name

log = logging.getLogger(__name__)


def read_unwrapped(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by the names of the bare network.

    Raises:
        BnrecalError: if the file is missing or holds no state_dict.
    """
    state = read_state(path)
    for wrapper in _WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Loads a checkpoint, unwrapped, into `network`.

    Raises:
        BnrecalError: naming the first tensor that does not fit or is not finite.
    """
    install(network, read_unwrapped(path), str(path))


def install(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads `state` into `network`, which is left as it was if it does not fit.

    Raises:
        BnrecalError: naming the first tensor that does not fit or is not finite.
    """
    check_state(network, state, source)
    current = network.state_dict()
    current.update(state)  # keeps the layers' version numbers beside the tensors, which some networks ask for
    network.load_state_dict(current)


def arguments(config: ModelConfig) -> dict[str, Any]:
    """`model.kwargs` as keyword arguments.

    Raises:
        BnrecalError: if it is no mapping of names.
    """
    kwargs = {} if config.kwargs is None else config.kwargs
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise BnrecalError(f"model.kwargs={kwargs}: write a mapping, for example model.kwargs={{depth: 20}}")
    return dict(kwargs)


def overridden(base: Preprocessing, config: ModelConfig) -> Preprocessing:
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


def finish(name: str, network: nn.Module, preprocessing: Preprocessing, data: ImageSource, weights: str) -> LoadedModel:
    """The network in eval mode, float32, on the CPU, checked against the data set.

    Networks of 1,001 classes on ImageNet are taken to count the background as class 0, as TensorFlow's do.

    Raises:
        BnrecalError: if a weight is not finite, an image does not pass through, or the classes do not match.
    """
    network = network.to("cpu", torch.float32).eval()
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BnrecalError(f"{weights} has NaN or infinity in {key}")
    outputs = _count_outputs(name, network, preprocessing, data)
    offset = outputs - data.num_classes
    if offset == 1 and data.name in IMAGENET_LABELLED:
        log.info("%s has %d classes: class 0 is taken for the background", name, outputs)
    elif offset != 0:
        raise BnrecalError(
            f"{name} tells {outputs} classes apart, data={data.name} has {data.num_classes}: "
            "choose a network and a data set of matching classes"
        )
    return LoadedModel(name, network, preprocessing, offset, weights, state_dict_hash(network))


def _count_outputs(name: str, network: nn.Module, preprocessing: Preprocessing, data: ImageSource) -> int:
    """Classes of the logits that a blank image (or, where images have no fixed size, the first) gives."""
    if preprocessing.crop is not None:
        image = torch.zeros(1, 3, preprocessing.crop, preprocessing.crop)
    else:
        image = data.dataset("val", [0], preprocessing)[0][0][None]
    try:
        with torch.inference_mode():
            logits = network(image)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BnrecalError(f"{name} cannot classify an image of {tuple(image.shape)}: {first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BnrecalError(f"{name} must return logits (images, classes) in eval mode, not {found}")
    return int(logits.shape[1])
