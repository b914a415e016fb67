"""A network of the user's own, made by a function named on the command line."""

from torch import nn

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError, with_place
from bnrecal.models.base import Recipe, own_checkpoint
from bnrecal.user_objects import find_object


def custom_recipe(config: ModelConfig, data: ImageSource) -> Recipe:
    """The network that `model.factory`, "package.module:callable", returns for `model.kwargs`.

    The current folder is searched first, so that a file beside the user is found. Without `model.checkpoint`
    the factory has to load the weights itself.

    Raises:
        BnrecalError: without a factory. Building raises it if the factory cannot be found, fails or returns no
            nn.Module.
    """
    factory = config.factory
    if factory is None:
        raise BnrecalError("model=custom needs model.factory=package.module:callable")
    kwargs = config.kwargs or {}
    return Recipe(
        lambda _: _call(factory, kwargs),
        weights=config.checkpoint or factory,
        checkpoint=own_checkpoint(config),
        preprocessing=_default(data),
    )


def _default(data: ImageSource) -> Preprocessing:
    if data.name == "glyphs":
        from bnrecal.data.glyphs.source import GLYPH_PREPROCESSING

        return GLYPH_PREPROCESSING
    return Preprocessing()


def _call(factory: str, kwargs: dict[str, object]) -> nn.Module:
    function = find_object("model.factory", factory, "callable")
    if not callable(function):
        module_name, _, attribute = factory.partition(":")
        raise BnrecalError(f"model.factory={factory}: {module_name} has no callable {attribute}")
    try:
        network = function(**kwargs)
    except Exception as error:  # whatever the user's code raises, reported with its place
        raise BnrecalError(f"model.factory={factory} failed: {with_place(error)}") from error
    if not isinstance(network, nn.Module):
        raise BnrecalError(f"model.factory={factory} returned {type(network).__name__}, not an nn.Module")
    return network
