"""A key of all that a compiled kernel was made from, so that an edit anywhere compiles it again.

numba keeps machine code by the file of the kernel alone. A helper in another file, or a constant that comes from one
(`len(Value)`), may change without its notice, and the old code would go on answering.
"""

import ast
import hashlib
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import llvmlite
from llvmlite import binding
from numba import __version__ as numba_version
from numba import config
from numba.core.codegen import get_host_cpu_features

PACKAGE = __name__.partition(".")[0]


@cache
def cache_key(module: str) -> str:
    """Return a hash of all that decides the machine code of a module's kernel: sources, compiler, processor."""
    digest = hashlib.sha256(repr((compiler(), processor())).encode())
    for path in sources(module):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compiler() -> tuple[str, ...]:
    """Return the versions of numba, llvmlite and LLVM."""
    return numba_version, llvmlite.__version__, repr(binding.llvm_version_info)


def processor() -> tuple[str, ...]:
    """Return the name and features of the processor that numba compiles for."""
    name = config.CPU_NAME or binding.get_host_cpu_name()  # type: ignore[attr-defined]
    features = config.CPU_FEATURES  # type: ignore[attr-defined]
    return name, get_host_cpu_features() if features is None else features  # type: ignore[no-untyped-call]


def sources(module: str) -> list[Path]:
    """Return the files of a module and of every module of this package that it imports, and that those import."""
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = _file(name)
            waiting += _imported(files[name])
    return [files[name] for name in sorted(files)]


def _file(module: str) -> Path:
    loaded = sys.modules.get(module)
    path = loaded.__file__ if loaded else None
    if path is None:
        spec = find_spec(module)
        path = spec.origin if spec else None
    assert path is not None
    return Path(path)


@cache
def _imported(path: Path) -> list[str]:
    """Return the modules of this package that a file names in its imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]  # a module, or a name in one
    return [name for name in names if name.partition(".")[0] == PACKAGE and _is_module(name)]


def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    parent = sys.modules.get(name.rpartition(".")[0])
    return hasattr(parent, "__path__") and find_spec(name) is not None
