"""Loading, hashing, and a look at every image cost minutes with large networks and disks: each happens once a run."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.small import SMALL, config

import bnrecal.experiment.identity
import bnrecal.experiment.setup
import bnrecal.models
import bnrecal.models.loading
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import Figure1Config, Network, Table1Config
from bnrecal.commands.figure1 import measure_network
from bnrecal.commands.table1 import measure_model
from bnrecal.data.base import ImageSource, Split
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.experiment.cell import run_into
from bnrecal.models.weights import state_dict_hash
from bnrecal.reports.table1.columns import Row

ROWS = "rows=[{source: PyTorch, label: Tiny, model: custom}]"
ONCE = {"load_model": 1, "hash": 1, "probe": 1, "validation": 1, "calibration": 1, "recalibration": 1}
Calls = Counter[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Number of times that a network was loaded, hashed or probed, and that a set of images was looked at."""
    counted: Calls = Counter()
    roles = {("val", 60): "validation", ("train", 40): "calibration", ("train", 48): "recalibration"}

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return function(*args, **kwargs)

        return call

    def version(source: GlyphSource, split: Split, indices: Sequence[int]) -> str:
        counted[roles[split, len(indices)]] += 1
        return ImageSource.version(source, split, indices)

    setup, identity, loading = bnrecal.experiment.setup, bnrecal.experiment.identity, bnrecal.models.loading
    monkeypatch.setattr(setup, "load_model", counting("load_model", bnrecal.models.load_model))
    monkeypatch.setattr(loading, "state_dict_hash", counting("hash", state_dict_hash))
    monkeypatch.setattr(identity, "probe", counting("probe", identity.probe))
    monkeypatch.setattr(GlyphSource, "version", version)
    return counted


def test_a_row_of_table_1_looks_at_its_network_and_images_once(calls: Calls, tmp_path: Path) -> None:
    table = read_config(Table1Config, ["model=custom", ROWS, *SMALL])
    assert len(measure_model(table, [Row("PyTorch", "Tiny", "custom")], tmp_path)) > 4
    assert calls == ONCE


def test_a_network_of_figure_1_is_looked_at_once(calls: Calls, tmp_path: Path) -> None:
    figure = read_config(Figure1Config, ["model=custom", "points=2", *SMALL])
    network = Network(panel="a", label="Tiny", model="custom", plan=False)
    assert measure_network(figure, network, tmp_path)
    assert calls == ONCE


def test_a_result_that_is_out_of_date_is_compared_and_measured_with_one_look(
    calls: Calls, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_into(config(), tmp_path)
    calls.clear()
    changed = run_into(config("recal=true"), tmp_path)
    assert calls == ONCE
    assert not changed.reused
    assert caplog.text.count("measured again: ") == 1
    calls.clear()
    assert run_into(config("recal=true"), tmp_path).reused
    assert calls == ONCE
