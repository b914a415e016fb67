"""Shares of the images, and evaluation by two processes against one."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.imagenet_tree import make_imagenet_tree
from helpers.nets import tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bnrecal.data.files.imagenet import imagenet
from bnrecal.data.loader import ImageLoader
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.data.selection import Selection
from bnrecal.evaluation.accuracy import evaluate
from bnrecal.evaluation.multi_gpu import evaluate_on_ranks, shard


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shares_joined_are_the_whole_and_even(indices: list[int], world: int) -> None:
    every = Selection("validation", "val", tuple(indices), None)
    shares = [shard(every, rank, world) for rank in range(world)]
    assert list(chain.from_iterable(share.indices for share in shares)) == indices
    lengths = [len(share.indices) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    for share in shares:
        assert share.whole == every.indices
        assert share.whole[share.start : share.start + len(share.indices)] == share.indices


def _network(seed: int) -> nn.Module:
    network = tiny(seed)
    network.fc = nn.Linear(16, 1000)
    return network


def _loading(folder: Path) -> tuple[ImageLoader, Selection]:
    tree = make_imagenet_tree(folder, per_class=1, corrupt=True)
    source = imagenet(tree.root, skip_corrupt=True)
    loading = ImageLoader(source, Preprocessing(resize=36, crop=32), torch.device("cpu"), 0)
    return loading, Selection("validation", "val", tuple(range(tree.val)), None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("several_processes")
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    loading, selection = _loading(tmp_path / "data")
    networks = {"a": _network(0), "b": _network(1)}
    together = evaluate(networks, loading.batches(selection, 3))
    apart = evaluate_on_ranks(networks, loading, selection, 3, 2)
    for name in networks:
        assert np.array_equal(apart[name].top1, together[name].top1)
        assert np.array_equal(apart[name].top5, together[name].top5)
        assert apart[name].skipped == together[name].skipped == 1
