"""Networks that make trouble, for tests of what becomes of the rest."""

import os
import signal
import time
from pathlib import Path

from torch import Tensor, nn

from helpers.nets import glyph_net


def deadly(fuse: str) -> nn.Module:
    """Kills the first process that asks for the network, as a full memory would; `fuse` is where it notes that."""
    try:
        Path(fuse).touch(exist_ok=False)
    except FileExistsError:
        return glyph_net()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def waits(note: str) -> nn.Module:
    """Writes the number of its process into the folder `note`, and then takes a minute."""
    (Path(note) / str(os.getpid())).touch()
    time.sleep(60)
    return glyph_net()


class _Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002
        raise LookupError("a foreign\nexception")


def broken_once(fuse: str) -> nn.Module:
    """A network that raises what nobody expects, the first time it is asked for."""
    network = glyph_net()
    if not Path(fuse).exists():
        Path(fuse).touch()
        network.dropout = _Broken()
    return network
