"""Every test process keeps its caches apart from the user's."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("bnrecal", derandomize=True, deadline=None)
settings.load_profile("bnrecal")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    os.environ["BNRECAL_CACHE"] = str(cache)
    base = tmp_path_factory.getbasetemp()
    drawn = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "drawn"
    drawn.mkdir(exist_ok=True)
    (cache / "glyphs").symlink_to(drawn)  # the same images for all: ten seconds of drawing
    os.environ.pop("HYDRA_FULL_ERROR", None)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # commands under test find tests/nets.py
