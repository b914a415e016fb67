"""Reading trained weights: every way a checkpoint can be wrong ends in one clear line."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError, first_line

State = dict[str, Tensor]

_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile put these before every name
# Counters that older checkpoints lack and no result depends on (momentum is a number everywhere here).
_OPTIONAL_SUFFIX = "num_batches_tracked"


def state_dict_hash(network: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the state_dict, in its order."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_state(path: Path, sha256: str | None = None) -> State:
    """The tensors of a checkpoint file by the names of the bare network, without the prefixes of wrappers.

    The file holds a state_dict, or a mapping with one under `state_dict`.

    Nothing in the file is executed (`weights_only=True`).

    Raises:
        BnrecalError: if the file is missing, is not the one whose SHA-256 was given, cannot be read as a
            checkpoint (truncated, some other format), or holds no state_dict.
    """
    if not path.is_file():
        raise BnrecalError(f"no checkpoint at {path}")
    if sha256 is not None and (found := file_hash(path)) != sha256:
        raise BnrecalError(f"{path} is damaged or another file: SHA-256 {found[:12]}..., expected {sha256[:12]}...")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BnrecalError(f"{path} is not a checkpoint of plain tensors: {first_line(error)[:120]}") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BnrecalError(f"{path} cannot be read, truncated or no checkpoint: {first_line(error)[:120]}") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BnrecalError(f"{path} holds no state_dict (a mapping of names to tensors)")
    return _unwrapped({str(name): tensor for name, tensor in loaded.items()})


def _unwrapped(state: State) -> State:
    for wrapper in _WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def install(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state` into `network`, which is left as it was if it does not fit.

    Args:
        source: where the tensors come from, for messages.

    Raises:
        BnrecalError: naming the first tensor that is missing, superfluous, of the wrong shape or not finite.
    """
    check_state(network, state, source)
    current = network.state_dict()
    current.update(state)  # keeps the layers' version numbers beside the tensors, which some networks ask for
    network.load_state_dict(current)


def check_state(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise BnrecalError, naming the first wrong tensor, unless `state` fits `network` and is finite."""
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            if name.endswith(_OPTIONAL_SUFFIX):
                continue
            raise BnrecalError(f"{source} does not fit {type(network).__name__}: {name} is missing")
        if state[name].shape != tensor.shape:
            found = tuple(state[name].shape)
            shape = tuple(tensor.shape)
            raise BnrecalError(f"{source} does not fit {type(network).__name__}: {name} is {found}, expected {shape}")
    for name, tensor in state.items():
        if name not in wanted:
            raise BnrecalError(f"{source} does not fit {type(network).__name__}: it has no {name}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BnrecalError(f"{source} has NaN or infinity in {name}")
