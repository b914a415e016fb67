"""A pytest plugin for `make mutate`, which starts the tests thousands of times."""

import json
import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from mutmut.state import state

STATS = Path("mutmut-stats.json")  # how long each test took, as mutmut noted it in the folder that it works in
GLYPHS = Path(__file__).parents[2] / ".glyphs"  # drawn once for all: no change to the code under test reaches them
_called: dict[Any, set[str]] = {}  # what each shared fixture called of the code under test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quickest files first, and in each the quickest tests: the first that notices a change ends the run."""
    if not STATS.exists():
        return
    seconds = json.loads(STATS.read_text())["duration_by_test"]
    of_file = Counter[Path]()
    for item in items:
        of_file[item.path] += seconds.get(item.nodeid, 0.0)
    items.sort(key=lambda item: (of_file[item.path], item.path, seconds.get(item.nodeid, 0.0)))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Generator[None, object, object]:
    """mutmut credits what a shared fixture calls to the first test that asks for it; here it is noted for all."""
    called = state()._stats
    before = set(called)
    called.clear()
    made = yield
    if fixturedef.scope != "function":
        _called[fixturedef] = set(called)
    called |= before
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Function) -> None:
    for fixtures in item._fixtureinfo.name2fixturedefs.values():
        for fixture in fixtures:
            state()._stats |= _called.get(fixture, set())


@pytest.fixture(scope="session", autouse=True)
def _drawn_once(_own_cache: None) -> None:
    GLYPHS.mkdir(exist_ok=True)
    drawn = Path(os.environ["BNRECAL_CACHE"]) / "glyphs"
    drawn.unlink()
    drawn.symlink_to(GLYPHS)
