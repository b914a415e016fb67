"""The size of things: a newcomer sees the flow from the file names, and every function on one screen."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("src", "tests", "scripts") for path in (ROOT / folder).rglob("*.py"))
FILE_LINES = 300
FUNCTION_LINES = 40


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function; its docstring may be as long as the contract needs."""
    described = len((ast.get_docstring(function, clean=False) or "").splitlines())
    return (function.end_lineno or 0) - function.lineno + 1 - described


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: code_lines(node) for node in functions}
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}
