"""Float networks and how each wants its images."""

import torch

from bnrecal.config import ModelConfig
from bnrecal.data.base import ImageSource
from bnrecal.errors import BnrecalError
from bnrecal.models.base import LoadedModel


def load_model(config: ModelConfig, data: ImageSource, *, seed: int = 0) -> LoadedModel:
    """The network that `model.family` and `model.name` ask for, with weights for the data set's classes.

    Args:
        seed: of whatever a factory draws at random; the global generator is given back as it was.

    Raises:
        BnrecalError: if there is no such network, its weights cannot be had, are damaged or not finite, or
            its classes are not the data set's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _load(config, data)


def _load(config: ModelConfig, data: ImageSource) -> LoadedModel:
    # imported when asked for: torchvision's model zoo alone takes a second
    if config.family == "table1":
        from bnrecal.models.paper_networks import load_table1

        return load_table1(config, data)
    if config.family == "torchvision":
        from bnrecal.models.torchvision_models import load_torchvision

        return load_torchvision(config.name, config, data)
    if config.family == "timm":
        from bnrecal.models.timm_models import load_timm

        return load_timm(config, data)
    if config.family == "custom":
        from bnrecal.models.custom import load_custom

        return load_custom(config, data)
    raise BnrecalError(f"model.family={config.family}: choose one of table1, torchvision, custom, timm")
