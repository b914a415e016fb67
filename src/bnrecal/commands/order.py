"""Orders of channels that `reorder=true` of table1 and figure1 shows beside the usual one."""

from collections.abc import Sequence
from dataclasses import replace

from bnrecal.commands.cli.schemas import Figure1Config, Table1Config
from bnrecal.config import Config
from bnrecal.errors import BnrecalError
from bnrecal.options import USUAL_ORDER


def shown_order(config: Table1Config | Figure1Config, overrides: Sequence[str]) -> str | None:
    """The order of channels that `reorder=true` shows beside the usual one; None without it.

    Raises:
        BnrecalError: where it is to show none.
    """
    if not config.reorder:
        return None
    if "smt.reorder=none" in overrides:
        raise BnrecalError("smt.reorder=none: reorder=true shows an order, choose activity, bits or random:N")
    return USUAL_ORDER if config.smt.reorder == "none" else config.smt.reorder


def in_usual_order(config: Config) -> Config:
    """The experiment with channels as they come."""
    return replace(config, smt=replace(config.smt, reorder="none"))
