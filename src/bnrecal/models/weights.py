"""Weights in a network: hashed, checked and installed. Every way in which they do not fit ends in one clear line."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bnrecal.errors import BnrecalError

State = dict[str, Tensor]

# Last parts of the names of what averaging (torch.optim.swa_utils) and thop put beside weights.
_COUNTERS = ("n_averaged", "total_ops", "total_params")
# DataParallel, torch.compile, and networks that hold another (Lightning's modules) put these before every name.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
# Counters that checkpoints may lack and no result depends on (BatchNorm's momentum is a number everywhere here).
_OPTIONAL = ("num_batches_tracked", *_COUNTERS)


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
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_prefixes(state: State) -> State:
    """The tensors without the prefixes of wrappers that all names bear, in any nesting."""
    prefix = _common_prefix(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _common_prefix(names: Iterable[str]) -> str:
    """The wrappers that come before all of the names; empty where there is none."""
    names = list(names)
    prefix = ""
    while True:
        nested = next((prefix + wrapper for wrapper in _WRAPPERS if _all_below(names, prefix + wrapper)), None)
        if nested is None:
            return prefix
        prefix = nested


def is_counter(name: str) -> bool:
    """Return whether a tensor of this name is a counter beside the weights."""
    return _last_part(name) in _COUNTERS


def _last_part(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _all_below(names: Sequence[str], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def install(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state` into `network`, which is left as it was if it does not fit.

    Args:
        state: without prefixes of wrappers; a network whose own names all begin with one gets it back.
        source: where the tensors come from, for messages.

    Raises:
        BnrecalError: naming the first tensor that is missing, superfluous, of the wrong shape or not finite.
    """
    current = network.state_dict()
    prefix = _common_prefix(name for name in current if not is_counter(name))
    state = {prefix + name: tensor for name, tensor in state.items()}
    check_state(network, state, source)
    current.update(state)  # keeps the layers' version numbers beside the tensors, which some networks ask for
    network.load_state_dict(current)


def check_state(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise BnrecalError, naming the first wrong tensor, unless `state` fits `network` and is finite."""
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            if _last_part(name) in _OPTIONAL:
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
