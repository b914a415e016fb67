"""A network of the user's own, made by a function named on the command line."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError, with_place
from bnrecal.models.base import LoadedModel
from bnrecal.models.finish import arguments, finish, load_checkpoint, overridden
from bnrecal.user_objects import find_object


def load_custom(config: ModelConfig, data: ImageSource) -> LoadedModel:
    """The network that `model.factory`, "package.module:callable", returns for `model.kwargs`.

    The current folder is searched first, so that a file beside the user is found. Without `model.checkpoint`
    the factory has to load the weights itself.

    Raises:
        BnrecalError: if the factory cannot be found, fails or returns no nn.Module, the checkpoint does not
            fit, or the classes do not match the data set's.
    """
    if config.factory is None:
        raise BnrecalError("model=custom needs model.factory=package.module:callable")
    network = _call(config.factory, arguments(config))
    weights = config.factory
    if config.checkpoint is not None:
        load_checkpoint(network, Path(config.checkpoint).expanduser())
        weights = config.checkpoint
    return finish(config.name, network, overridden(_default(data), config), data, weights)


def _default(data: ImageSource) -> Preprocessing:
    if data.name == "glyphs":
        from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING

        return GLYPH_PREPROCESSING
    return Preprocessing()


def _call(factory: str, kwargs: dict[str, object]) -> nn.Module:
    function = find(factory)
    try:
        network = function(**kwargs)
    except Exception as error:  # whatever the user's code raises, reported with its place
        raise BnrecalError(f"model.factory={factory} failed: {with_place(error)}") from error
    if not isinstance(network, nn.Module):
        raise BnrecalError(f"model.factory={factory} returned {type(network).__name__}, not an nn.Module")
    return network


def find(factory: str) -> Callable[..., object]:
    """The callable that "package.module:callable" names, with the current folder on the path.

    Raises:
        BnrecalError: if the text has another form, the module cannot be imported, or it has no such callable.
    """
    found = find_object("model.factory", factory, "callable")
    if not callable(found):
        module_name, _, attribute = factory.partition(":")
        raise BnrecalError(f"model.factory={factory}: {module_name} has no callable {attribute}")
    return found
