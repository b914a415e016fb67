"""The comparison with other tools: what torch has runs here, and a tool that is not installed is named."""

import math
import sys
from types import ModuleType

import pytest
import torch
from helpers.nets import images, tiny
from helpers.scripts import script
from torch import nn

import bnrecal


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return script("compare_peers")


def test_estimates_agree_with_torch_and_differences_are_seen(compare: ModuleType) -> None:
    batches = [images(16, seed=seed) for seed in range(4)]
    ours = tiny()
    theirs = tiny()
    compare.by_cumulative(ours, batches)
    compare.by_update_bn(theirs, batches)
    mean, variance = compare.largest_differences(ours, theirs)
    assert 0 <= mean < 1e-5
    assert 0 <= variance < 1e-5
    bn = theirs.bn2
    assert bn.running_var is not None
    assert bn.running_mean is not None
    bn.running_var[3] *= 1.5
    bn.running_mean[1] += 2 * (bn.running_var[1] + bn.eps).sqrt()
    mean, variance = compare.largest_differences(ours, theirs)
    assert mean == pytest.approx(2, rel=1e-3)
    assert variance == pytest.approx(0.5, rel=0.02)


def not_installed(name: str) -> ModuleType:
    raise ImportError(f"No module named {name!r}")


def test_the_tables(compare: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "import_module", not_installed)
    small = ["--networks", "mobilenet_v1", "--statistics", "128", "--images", "128", "--val", "100", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["compare_peers.py", *small])
    compare.main()
    printed = capsys.readouterr().out
    for package in ("fvcore", "torchao", "nncf", "brevitas"):
        assert f"left out: {package} cannot be imported (No module named '{package}')" in printed
    rows = [text.strip("| ").split(" | ") for text in printed.splitlines() if text.startswith("|")]
    statistics = next(row for row in rows if row[0] == "mobilenet_v1")
    assert [cell.strip() for cell in statistics[2:6]] == ["", "", "", ""]
    assert all(float(statistics[place]) > 0 for place in (1, 6, 7, 8))
    assert float(statistics[9]) < 1e-3
    assert float(statistics[10]) < 1e-3
    tools = {row[0]: row for row in rows[rows.index(statistics) + 3 :]}
    assert list(tools) == ["float32", "bnrecal A8W8", "bnrecal 4 threads"]
    assert float(tools["float32"][1]) > float(tools["bnrecal 4 threads"][1]) > 50
    assert all(float(row[2]) > 0 for row in tools.values())
    assert float(tools["float32"][3]) == 1
    assert all(float(row[3]) > 0 for row in tools.values())
    ways = dict(way.rsplit(" ", 1) for way in tools["bnrecal 4 threads"][4].split("; "))
    assert list(ways) == ["bnrecal ema", "bnrecal pooled", "bnrecal cumulative", "torch update_bn"]
    assert not any(math.isnan(float(value)) for value in ways.values())


def test_tools_that_take_turns_are_compared_round_by_round(compare: ModuleType) -> None:
    # The machine was busy in the second round, for both: the ratio does not see it, nor do medians.
    assert compare.in_turns([1.0, 30.0, 1.2], [2.0, 50.0, 2.0]) == ["1.20", "2.00", "0.60"]


def test_logits_that_are_not_finite_are_said(compare: ModuleType) -> None:
    labels = torch.tensor([0, 1])
    pixels = torch.tensor([[2.0, 1.0], [2.0, 1.0]]).view(2, 2, 1, 1)
    assert compare.top1(nn.Flatten(), [(pixels, labels)]) == "50.00"
    assert compare.top1(nn.Flatten(), [(pixels / 0, labels)]) == "not finite"
    assert bnrecal.evaluate({"a": nn.Flatten()}, [(pixels, labels)])["a"].top1 == 50
