"""The kind of device that results were measured on: those kept from another kind are named in a warning, once."""

from bnrecal.config import Config
from bnrecal.device import device_kind, find_device
from bnrecal.errors import BnrecalError
from bnrecal.files import warn_once
from bnrecal.nbsmt.engines.gpu.choose import triton_trouble


def kind_here(config: Config) -> str | None:
    """Return the kind of device that this process measures on; None where the one asked for is not there."""
    try:
        return device_kind(find_device(config.device, triton_trouble))
    except BnrecalError:  # a machine that only hands out tasks
        return None


def warn_of_another_device(config: Config, kept: str | None) -> None:
    """Warn once if a result that is kept was measured on another kind of device than this process would take.

    Args:
        kept: the kind it was measured on; None where results of its version do not say.
    """
    here = kind_here(config)
    if kept is not None and here is not None and kept != here:
        warn_once(f"results measured on {kept} are kept, new ones come from {here}: resume=false measures all again")
