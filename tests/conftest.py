"""Every test process keeps its caches apart from the user's."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("bnrecal", derandomize=True, deadline=None)
settings.load_profile("bnrecal")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BNRECAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("HYDRA_FULL_ERROR", None)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # commands under test find tests/nets.py
