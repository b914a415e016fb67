"""One line says one thing: files and functions of a size that is read at one go, and lines that are not packed."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("src", "tests", "scripts") for path in (ROOT / folder).rglob("*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "src").rglob("*.md"))]
FILE_LINES = 400
PAGE_WIDTH = 120
FUNCTION_STATEMENTS = 40
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DESCRIBED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# A docstring begins with a noun or a verb.
POOR_BEGINNINGS = ("Of", "For", "As", "What", "Which", "Whether", "How")

Rule = Callable[[ast.Module], Iterator[str]]


def long_functions(tree: ast.Module) -> Iterator[str]:
    """Functions of too many statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
            if statements > FUNCTION_STATEMENTS:
                yield f"line {node.lineno}: {node.name} has {statements} statements"


def packed_assignments(tree: ast.Module) -> Iterator[str]:
    """Assignments of a tuple to a tuple with a call on the right, which are two lines."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        calls = any(isinstance(inner, ast.Call) for inner in ast.walk(node.value))
        if calls and any(isinstance(target, ast.Tuple) for target in node.targets):
            yield f"line {node.lineno}: several assignments with a call in one"


def nested_comprehensions(tree: ast.Module) -> Iterator[str]:
    """Comprehensions with another inside."""
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            inner = [other for other in ast.walk(node) if isinstance(other, COMPREHENSIONS) and other is not node]
            if inner:
                yield f"line {node.lineno}: a comprehension inside a comprehension"


def dictionaries_as_switches(tree: ast.Module) -> Iterator[str]:
    """Dictionaries that are written down only to be indexed on the spot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
            yield f"line {node.lineno}: a dictionary as a switch"


def poor_docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings that begin with none of a noun and a verb."""
    for node in ast.walk(tree):
        if isinstance(node, DESCRIBED):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0] in POOR_BEGINNINGS:
                yield f"{getattr(node, 'name', 'the module')}: a docstring that begins with {words[0]}"


RULES: tuple[Rule, ...] = (
    long_functions,
    packed_assignments,
    nested_comprehensions,
    dictionaries_as_switches,
    poor_docstrings,
)
# A snippet that breaks each rule, and one that keeps it.
SNIPPETS: dict[Rule, tuple[str, str]] = {
    long_functions: ("def f():\n" + "    x = 1\n" * 41, "def f():\n" + "    x = 1\n" * 40),
    packed_assignments: ("a, b = f(), 1", "a, b = 1, 2"),
    nested_comprehensions: ("[[y for y in x] for x in z]", "[y for x in z for y in x]"),
    dictionaries_as_switches: ("{1: 2}[x]", "table[x]"),
    poor_docstrings: ('def f():\n    """Of two numbers, the sum."""', 'def f():\n    """Return the sum."""'),
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_easy_to_read(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    tree = ast.parse(text)
    rules = RULES if path.is_relative_to(ROOT / "src") else RULES[:-1]
    assert [trouble for rule in rules for trouble in rule(tree)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_each_rule_finds_what_breaks_it_and_nothing_else(rule: Rule) -> None:
    broken, kept = (ast.parse(snippet) for snippet in SNIPPETS[rule])
    assert len(list(rule(broken))) == 1
    assert list(rule(kept)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_wrapped(page: Path) -> None:
    """Prose, not tables and code, which lines break."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > PAGE_WIDTH and not line.startswith("|")] == []


def test_what_was_skipped_and_why_is_printed(pytestconfig: pytest.Config) -> None:
    assert "-rs" in pytestconfig.getini("addopts")
