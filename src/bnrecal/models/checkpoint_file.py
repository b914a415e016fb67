"""Checkpoint files of any usual making, read for their weights alone: nothing in them is executed."""

import argparse
import collections
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bnrecal.errors import BnrecalError, first_line
from bnrecal.files import log_once
from bnrecal.models.weights import State, file_hash, is_counter, without_prefixes

WEIGHT_KEYS = ("state_dict", "model", "model_state_dict", "net", "state_dict_ema", "model_ema")
"""Where training scripts put a network's weights in their checkpoints."""

# Plain data that training scripts save beside weights: arguments, paths, NumPy's numbers. Making one runs no code of
# the file.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    collections.defaultdict,
    np.dtype,
    np.ndarray,
    *[type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")],
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.zeros(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    (np.zeros(0).__reduce__()[0], "numpy._core.multiarray._reconstruct"),
    *[(PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")],
    *[(PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")],
]

_SAVE_WEIGHTS = "save its weights alone where it was made: torch.save(network.state_dict(), 'weights.pth')"
_FOREIGN = {  # endings of files that hold a network, but no state_dict
    ".onnx": "an ONNX graph",
    ".pt2": "a program of torch.export",
    ".h5": "of Keras",
    ".keras": "of Keras",
    ".pb": "a graph of TensorFlow",
    ".tflite": "a graph of TensorFlow Lite",
}


def read_state(path: Path, sha256: str | None = None, key: str | None = None) -> State:
    """Return the weights in a file by the names of the bare network: float32 as far as they are numbers with a point.

    The file is a `.safetensors`, or what torch.save wrote: a state_dict, or a mapping that holds one under one of
    WEIGHT_KEYS. Prefixes that wrappers put before every name, and counters beside the weights, are left out. Another
    precision is converted, and a line in the log says so.

    Args:
        sha256: of the file, where it is known.
        key: where in the file the weights are, if not under one of WEIGHT_KEYS or if under several.

    Raises:
        BnrecalError: if the file is missing, is not the one whose SHA-256 was given, cannot be read (truncated, some
            other format, objects that would run code), holds no weights, or several, or tensors without plain values.
    """
    _check_file(path)
    if sha256 is not None and (found := file_hash(path)) != sha256:
        raise BnrecalError(f"{path} is damaged or another file: SHA-256 {found[:12]}..., expected {sha256[:12]}...")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    place, state = _weights(path, content, key)
    if place:
        log_once(f"{path}: weights from {place}")
    kept = {name: value for name, value in state.items() if not is_counter(name)}
    return _plain(path, without_prefixes(kept))


def _check_file(path: Path) -> None:
    """Raise BnrecalError unless the path is a file that may hold a state_dict."""
    if path.is_dir():
        files = sorted(entry.name for entry in path.iterdir() if entry.suffix in (".pth", ".pt", ".safetensors"))
        inside = f" (it has {', '.join(files[:3])})" if files else ""
        raise BnrecalError(f"checkpoint {path} is a folder: name the file with the weights{inside}")
    if not path.is_file():
        raise BnrecalError(f"no checkpoint at {path}")
    foreign = _FOREIGN.get(path.suffix.lower())
    if foreign is None and zipfile.is_zipfile(path):
        foreign = _program(path)
    if foreign is not None:
        raise BnrecalError(f"{path} is {foreign}, not a state_dict: {_SAVE_WEIGHTS}")


def _program(path: Path) -> str | None:
    """Return what kind of program a zip file holds; None for one of torch.save."""
    try:
        with zipfile.ZipFile(path) as file:
            names = [name.rsplit("/", 1)[-1] for name in file.namelist()]
            folders = [name.split("/")[1] for name in file.namelist() if name.count("/") > 1]
    except (zipfile.BadZipFile, OSError):
        return None  # reported when it is read
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return _FOREIGN[".pt2"]
    return "a program of TorchScript" if "code" in folders else None


def _safetensors(path: Path) -> State:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise BnrecalError(f"{path} cannot be read, truncated or no safetensors: {first_line(error)[:120]}") from error


def _torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, of files that one line below describes
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BnrecalError(_describe_objects(path, error)) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BnrecalError(f"{path} cannot be read, truncated or no checkpoint: {first_line(error)[:120]}") from error


def _describe_objects(path: Path, error: pickle.UnpicklingError) -> str:
    """A message about a file that holds more than plain data."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return f"{path} is not a checkpoint of plain tensors: {_SAVE_WEIGHTS}"
    names = _unsafe_globals(path) or [found[1]]
    if any(name.startswith("torch.nn.modules.") for name in names):
        whole = next((name for name in names if not name.startswith("torch.")), found[1])
        return f"{path} holds a whole network ({whole}), which runs code as it is read: {_SAVE_WEIGHTS}"
    return f"{path} holds an object of {found[1]}, which may run code as it is read: {_SAVE_WEIGHTS}"


def _unsafe_globals(path: Path) -> list[str]:
    """Return the names of all objects that a file would import; none for a file of PyTorch before 1.6."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError, OSError, pickle.UnpicklingError):
        return []


def _weights(path: Path, content: Any, key: str | None) -> tuple[str, State]:
    """Return the place of the weights in the content ("": all of it), and the weights."""
    found = dict(_states(content, ""))
    if key is not None:
        chosen = _at(content, key)
        if chosen is None or not _is_state(chosen):
            raise BnrecalError(f"model.checkpoint_key={key}: {path} has no weights there{_has(content, found)}")
        return key, chosen
    if len(found) > 1:
        raise BnrecalError(
            f"{path} holds weights under {', '.join(found)}: choose one, as in model.checkpoint_key={next(iter(found))}"
        )
    if not found:
        raise BnrecalError(f"{path} holds no state_dict (a mapping of names to tensors){_has(content, {})}")
    return next(iter(found.items()))


def _states(content: Any, place: str) -> Iterator[tuple[str, State]]:
    """Yield each state_dict of the content with its place, keys joined by dots."""
    if _is_state(content):
        yield place, content
    elif isinstance(content, Mapping):
        for key in WEIGHT_KEYS:
            if key in content:
                yield from _states(content[key], f"{place}.{key}".lstrip("."))


def _is_state(content: Any) -> bool:
    """Return whether the content maps names to tensors, but for counters."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return False
    weights = [value for name, value in content.items() if not is_counter(name)]
    return bool(weights) and all(isinstance(value, Tensor) for value in weights)


def _at(content: Any, key: str) -> Any:
    """Return what the content holds at a place, keys joined by dots; None where it holds nothing."""
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return None
        content = content[part]
    return content


def _has(content: Any, found: Mapping[str, State]) -> str:
    """Words for what is there instead of the weights, for a message."""
    if found:
        return f", but under {', '.join(found)}"
    if not isinstance(content, Mapping):
        return f": it is {type(content).__name__}"
    others = [str(name) for name, value in content.items() if _is_state(value)]
    if others:
        return f" where they usually are, but under {', '.join(others)}: give model.checkpoint_key={others[0]}"
    names = [str(name) for name in content]
    odd = next((name for name in names if not isinstance(content[name], Tensor | Mapping)), None)
    return f": it has {', '.join(names[:4])}" + (f" ({odd} is {type(content[odd]).__name__})" if odd else "")


def _plain(path: Path, state: State) -> State:
    """Return the tensors as float32, counters as they are."""
    converted: dict[str, str] = {}
    for name, tensor in state.items():
        if tensor.is_meta:
            raise BnrecalError(f"{path}: {name} has a shape but no values (device meta): {_SAVE_WEIGHTS}")
        if tensor.is_quantized:
            raise BnrecalError(f"{path}: {name} is quantized ({tensor.dtype}): give the float32 weights")
        if tensor.layout != torch.strided:
            raise BnrecalError(f"{path}: {name} is sparse ({tensor.layout}): save it with tensor.to_dense()")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            converted[str(tensor.dtype).removeprefix("torch.")] = name
    if converted:
        log_once(f"{path}: {', '.join(converted)} weights are taken as float32")
    return {name: tensor.detach().float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
