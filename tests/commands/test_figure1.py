import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pytest
from helpers.small import TINY
from joblib.externals.loky.backend.reduction import dumps

import bnrecal.commands.figure1
import bnrecal.commands.parallel.local
import bnrecal.experiment.setup
from bnrecal.commands.cli.compose import read_config
from bnrecal.commands.cli.schemas import Figure1Config, Network
from bnrecal.commands.figure1 import make_figure1
from bnrecal.data import build_source
from bnrecal.data.glyphs.source import GlyphSource
from bnrecal.errors import BnrecalError
from bnrecal.reports.figure1.points import FigurePoint

T = TypeVar("T")
SMALL = [
    *TINY,
    "data.val_images=20",
    "search.sensitivity_images=32",
    "search.images=32",
    "search.heldout_images=32",
]
ONE = "networks=[{panel: a, label: Net, model: custom}]"
TWO = "networks=[{panel: a, label: Net, model: custom}, {panel: b, label: Other, model: custom, slow: 1, plan: false}]"


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrecal.experiment.setup, "build_source", lambda *_: GlyphSource(0, 100, 20))


def made(out: Path, *overrides: str) -> pd.DataFrame:
    own = [*SMALL, "jobs=1", f"out={out}", *overrides]
    make_figure1(read_config(Figure1Config, own), own)
    return pd.read_csv(out / "figure1.csv")


def test_the_figure_and_its_table_are_made_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = made(tmp_path, TWO)
    assert {path.name for path in tmp_path.iterdir()} == {
        "figure1.csv",
        "figure1.png",
        "figure1.svg",
        "report.html",
        "cells",
    }
    net = table[table["label"] == "Net"]
    other = table[table["label"] == "Other"]
    # two layers can run several threads: none, one or both are slowed
    assert net["curve"].value_counts().to_dict() == {
        "highest_error w/o": 3,
        "highest_error w/": 3,
        "plan w/": 3,
        "random w/": 3,
    }
    assert other["curve"].value_counts().to_dict() == {"highest_error w/o": 3, "highest_error w/": 3}
    assert sorted(other["slowed"].unique()) == [0, 1, 2]
    assert other.loc[other["slowed"] == 2, "speedup"].tolist() == [1.0, 1.0]
    assert (table["speedup"] >= table["target"] * (1 - 1e-6)).all()
    assert table["drop"].to_numpy() == pytest.approx((table["fp32_top1"] - table["top1"]).to_numpy(), abs=1e-3)
    assert table["collisions_4t"].between(0, 1).all()
    assert {"stderr", "drop_stderr", "cycles", "seed", "layers"} <= set(table.columns)
    chosen = net[net["method"].isin(["plan", "random"])]
    assert chosen[["search_loss", "heldout_loss"]].notna().all(axis=None)
    seen = chosen.groupby("method")["evaluated_images"].first()
    # three points of two layers: no more than the four choices of layers to slow can be drawn
    assert 0 < seen["random"] <= max(seen["plan"], 3 * 4 * 32)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(bnrecal.commands.figure1, "prepare", never)
    pd.testing.assert_frame_equal(made(tmp_path, TWO), table)


def pickled(work: Callable[[int], T], tasks: Sequence[int], processes: int) -> Iterator[tuple[int, T]]:
    """Stands for processes: does the work here, as they would get it."""
    assert processes == 2
    received = pickle.loads(dumps(work))
    for task in tasks:
        yield task, received(task)


def test_a_network_that_fails_leaves_the_others_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = bnrecal.commands.figure1.measure_network

    def fails_for_other(config: Figure1Config, network: Network, folder: Path) -> list[FigurePoint]:
        if network.label == "Other":
            raise BnrecalError("no such weights")
        return measure(config, network, folder)

    monkeypatch.setattr(bnrecal.commands.figure1, "measure_network", fails_for_other)
    monkeypatch.setattr(bnrecal.commands.parallel.local, "in_processes", pickled)
    with pytest.raises(BnrecalError, match="1 of 2 networks failed: Other: no such weights"):
        made(tmp_path, TWO.replace("model: custom}", "model: custom, plan: false}"), "jobs=2")
    assert set(pd.read_csv(tmp_path / "figure1.csv")["label"]) == {"Net"}


def test_pruned_weights_that_nobody_publishes_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    pruned = Network("a", "ResNet-18 P40", "resnet18_p40")
    figure = Figure1Config()
    figure.data.name = "imagenet"
    assert bnrecal.commands.figure1._left_out(pruned, figure)
    assert "give p40=PATH" in capsys.readouterr().out
    figure.p40 = "x.pth"
    assert not bnrecal.commands.figure1._left_out(pruned, figure)
    own = bnrecal.commands.figure1._own(figure, pruned)
    assert own.model.checkpoint == "x.pth"
    assert bnrecal.commands.figure1._own(figure, Network("a", "Net", "resnet18")).model.checkpoint is None


def test_the_embedded_set_is_measured_on_more_images_unless_their_number_is_given() -> None:
    figure = Figure1Config()
    figure.data.name = "glyphs"
    network = Network("a", "Net", "resnet18")
    assert bnrecal.commands.figure1._own(figure, network).data.val_images == 10_000
    figure.data.val_images = 300
    assert bnrecal.commands.figure1._own(figure, network).data.val_images == 300
    assert build_source(figure.data).size("val") == 5_000
    figure.data.val_images = 7_000
    assert build_source(figure.data).size("val") == 7_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("points=1", "points=1: must be at least 2"),
        ("networks=[{panel: a, label: Net, model: custom, slow: 4}]", "slow=4 of Net: choose 1 or 2"),
        ("networks=[{panel: a, label: Net, model: custom, pruned: 100}]", "pruned=100 of Net: choose 0 to 99 percent"),
        ("smt.plan=x.json", "leave them out"),
    ],
)
def test_values_out_of_range_are_reported(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(BnrecalError, match=message):
        made(tmp_path, ONE, override)


def test_small_images_are_evaluated_more_at_a_time_unless_their_number_is_given() -> None:
    config = read_config(Figure1Config, SMALL)
    experiment = bnrecal.experiment.setup.load(config)
    whole = replace(experiment, config=replace(config, batch_size=None))
    assert whole.batch_size == 20  # no more than there are
    larger = bnrecal.commands.figure1.with_small_images(whole)
    assert larger.config == replace(whole.config, batch_size=20)
    many = replace(whole, validation=replace(whole.validation, indices=tuple(range(1000))))
    assert bnrecal.commands.figure1.with_small_images(many).batch_size == bnrecal.commands.figure1.GLYPH_BATCH
    given = replace(experiment, config=replace(config, batch_size=7))
    assert bnrecal.commands.figure1.with_small_images(given) is given
