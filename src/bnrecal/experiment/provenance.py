"""What produced a number: versions, code, configuration."""

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

PACKAGES = ("torch", "torchvision", "numpy", "numba", "hydra-core", "pandas", "pillow")

# Settings that say where and how a run works, not what it computes.
_NOT_CONTENT = ("workers", "resume", "save_checkpoint", "gpus")

# Packages whose code only starts, draws or times what others compute.
_NO_NUMBERS = ("commands", "reports", "benchmark")


def versions() -> dict[str, str]:
    """This package, its source, Python and the libraries that results may depend on."""
    libraries = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"bnrecal": __version__, "source": source_hash(), "python": platform.python_version(), **libraries}


@cache
def source_hash() -> str:
    """A short SHA-256 over the package's Python files that can change a number: reports and commands cannot."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] in _NO_NUMBERS:
            continue
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def content_hash(content: Any) -> str:
    """A short hash of plain data, the same for equal content whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolved(config: Config) -> dict[str, Any]:
    """The whole configuration as plain data."""
    return asdict(config)


def cell_key(config: Config) -> str:
    """The identity of an experiment: the content of its configuration and the code that runs it."""
    content = {key: value for key, value in resolved(config).items() if key not in _NOT_CONTENT}
    return content_hash({"config": content, "versions": versions()})
