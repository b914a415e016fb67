"""The developers' measurements on small layers: complete tables, sensible numbers, loud errors."""

import re
import sys

import pytest
import torch
import torchvision
from helpers.scripts import script

from bnrecal.benchmark.networks import random_images
from bnrecal.errors import BnrecalError
from bnrecal.nbsmt.decompose.dense_sparse import DenseShare
from bnrecal.nbsmt.engines.cpu.onednn import Exactness, onednn_exactness


def test_costs_of_weights(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    measure = script("measure_costs")
    monkeypatch.setattr(measure, "LAYERS", ((16, 6),))
    monkeypatch.setattr(sys, "argv", ["measure_costs.py", "--repeats", "1"])
    workers = torch.get_num_threads()
    measure.main()
    printed = capsys.readouterr().out.splitlines()
    assert "in units of one sparse weight" in printed[0]
    assert "  16 x 6 x 6 " in printed[2]
    assert "none " in printed[2]
    assert (onednn_exactness() is not Exactness.NONE) == (f"{onednn_exactness().value} " in printed[2].split("none")[1])
    assert torch.get_num_threads() == workers
    monkeypatch.setattr(measure, "kernels_compile", lambda: False)
    with pytest.raises(BnrecalError, match="numba is switched off or cannot compile here"):
        measure.main()


def test_shares_of_a_forward_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--models", "resnet18", "--batch", "1", "--size", "32", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["measure_shares.py", *small])
    workers = torch.get_num_threads()
    script("measure_shares").main()
    printed = capsys.readouterr().out.splitlines()
    layer, ratios = printed[0].split(", as ratio to float32: ")
    assert layer == "3x3 layer of 64 x 8 x 8"
    found = dict(ratio.rsplit(" ", 1) for ratio in ratios.split(", "))
    assert list(found) == ["2T", "2T without saturation", "4T", "4T without saturation"]
    assert float(found["4T without saturation"]) > float(found["2T"]) > 0
    shares = dict(re.findall(r"(\w+) ([\d.]+)%", printed[1]))
    assert set(shares) == {"BatchNorm2d", "ReLU", "quantizing"}
    assert 0 < sum(map(float, shares.values())) < 100
    assert torch.get_num_threads() == workers


def test_what_choices_lose(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--models", "shufflenet_v2_x0_5", "--variants", "2T", "--batch", "1", "--size", "32", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["measure_choices.py", *small])
    measure = script("measure_choices")
    monkeypatch.setattr(measure, "LOST", 0)
    measure.main()
    heading, network, *layers = capsys.readouterr().out.splitlines()
    columns = dict(zip(heading.split()[3:], map(float, network.split()[2:]), strict=True))
    assert list(columns)[-3:] == ["full", "all", "none"]
    assert columns["quickest"] <= min(columns["chosen"], columns["full"], columns["all"], columns["none"])
    assert columns["ratio"] == pytest.approx(columns["chosen"] / columns["quickest"], rel=0.02)
    convs = [m for m in torchvision.models.shufflenet_v2_x0_5().modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(layers) == sum(conv.groups == 1 for conv in convs) - 1  # all but the first and the depthwise ones
    line = r"    [\w.]+: (full|all|none) chosen; full [\d.]+ ms, all [\d.]+ ms, none [\d.]+ ms"
    assert [layer for layer in layers if not re.fullmatch(line, layer)] == []
    own = best = 0.0
    for layer in layers:
        times = dict(re.findall(r"(full|all|none) ([\d.]+) ms", layer))
        own += float(times[re.search(r"(\w+) chosen", layer)[1]])  # type: ignore[index]
        best += min(map(float, times.values()))
    assert [columns["chosen"], columns["quickest"]] == pytest.approx([own, best], abs=0.03)
    images = random_images(1, 32, "cpu")
    for share in DenseShare:
        forced = measure._forced("shufflenet_v2_x0_5", "2T", share, images)
        assert {engine.share for engine in measure._engines(forced).values()} == {share}
    monkeypatch.setattr(measure, "kernels_compile", lambda: False)
    with pytest.raises(BnrecalError, match="so there are no choices to measure"):
        measure.main()
