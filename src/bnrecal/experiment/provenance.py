"""The origin of a number: versions, code, configuration."""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from bnrecal import __version__
from bnrecal.config import Config

PACKAGES = ("torch", "torchvision", "numpy", "numba", "hydra-core", "pandas", "pillow", "opencv-python-headless")

# Settings that say where and how a run works, not what it computes.
_NOT_CONTENT = ("workers", "resume", "save_checkpoint", "gpus")

# Packages whose code only starts, draws, times or writes what others compute.
_NO_NUMBERS = ("commands", "reports", "benchmark", "export")


def versions() -> dict[str, str]:
    """This package, its source, Python and the libraries that results may depend on."""
    libraries = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"bnrecal": __version__, "source": source_hash(), "python": platform.python_version(), **libraries}


@cache
def source_hash() -> str:
    """A short SHA-256 over the package's code and class lists that can change a number: reports and commands cannot."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(path for pattern in ("*.py", "*.txt") for path in root.rglob(pattern)):
        if path.relative_to(root).parts[0] in _NO_NUMBERS:
            continue
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def content_hash(content: Any) -> str:
    """A short hash of plain data, the same for equal content whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings(config: Config) -> dict[str, Any]:
    """The settings that can change the numbers of this experiment, as plain data."""
    content = {key: value for key, value in asdict(config).items() if key not in _NOT_CONTENT}
    for key in ("download", "allow_chance", "crop_cache"):
        del content["data"][key]
    if not config.recal:
        del content["recalibration"]
    else:
        content["recalibration"] = recalibration_settings(config)
    return content


def recalibration_settings(config: Config) -> dict[str, Any]:
    """The settings of recalibration that can change numbers, as plain data: the momentum is that of "ema" alone."""
    content = asdict(config.recalibration)
    if config.recalibration.method != "ema":
        del content["momentum"]
    return content


def settings_key(config: Config) -> str:
    """A hash of the settings alone, for names of files and folders: cheap, and what they refer to may change.

    Whether what was found under a name is still the same experiment, `bnrecal.experiment.identity` decides.
    """
    return content_hash(settings(config))
