"""A search whose losses are written down, on a small network: conv2 and dilated can run several threads."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

import bnrecal.experiment.setup
from bnrecal.commands.cli.compose import compose_config
from bnrecal.config import parse
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.experiment.setup import Experiment, load, prepare
from bnrecal.search.config import SearchConfig
from bnrecal.search.local_search import Search
from helpers.small import TINY

Costs = Mapping[tuple[str, int], float]


def small_experiment() -> Experiment:
    """On 100 training and 20 validation images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))
        return prepare(load(parse(compose_config("config", TINY))))


class Known:
    """A probe whose losses are written down: of three images, 0.9, 1 and 1.1 times the sum of the layers' costs."""

    def __init__(self, experiment: Experiment, cost: Costs) -> None:
        self.experiment = experiment
        self.cost = cost
        self.calls = 0

    def losses(self, threads: Mapping[str, int]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        self.calls += 1
        total = sum(self.cost[name, t] for name, t in threads.items() if t > 1)
        return total * np.array([0.9, 1.0, 1.1])


def known_search(experiment: Experiment, cost: Costs, believed: Costs) -> Search:
    """A search that measures `cost` and takes `believed` for the sensitivities."""
    rows = [{"name": name, "threads": threads, "loss": loss} for (name, threads), loss in believed.items()]
    config = SearchConfig(rounds=3, tries=8)
    return Search(Known(experiment, cost), pd.DataFrame(rows), config)  # type: ignore[arg-type]
