"""Crops kept in a file: equal pixels with and without, nothing decoded twice, nothing believed that is not whole."""

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.imagenet_tree import Tree, make_imagenet_tree
from PIL import Image
from torch import Tensor

from bnrecal.data import crop_cache
from bnrecal.data.crop_cache import CropCache
from bnrecal.data.files import folder as files_of
from bnrecal.data.files.decode import decode
from bnrecal.data.files.imagenet import imagenet
from bnrecal.data.loader import ImageLoader
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.data.selection import Selection
from bnrecal.errors import BnrecalError
from bnrecal.evaluation.multi_gpu import shard
from bnrecal.files import warn_once

CPU = torch.device("cpu")
SMALL = Preprocessing(resize=36, crop=32)
ALL = Selection("validation", "val", tuple(range(8)), None)
TRAIN = Selection("recalibration", "train", (3, 1, 6, 0, 2), 0)

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path / "cache"))
    return make_imagenet_tree(tmp_path / "data", per_class=1)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded, one after the other."""
    names: list[str] = []

    def noting(path: str) -> Image.Image:
        names.append(Path(path).name)
        return decode(path)

    monkeypatch.setattr(files_of, "decode", noting)
    return names


def loader(tree: Tree, folder: Path | None, preprocessing: Preprocessing = SMALL, **options: Any) -> ImageLoader:
    source = imagenet(tree.root, skip_corrupt=True)
    cache = None if folder is None else CropCache(folder)
    return ImageLoader(source, preprocessing, CPU, options.pop("workers", 0), crop_cache=cache, **options)


def load(loading: ImageLoader, selection: Selection = ALL, **options: Any) -> Batches:
    return list(loading.batches(selection, 3, **options))


def assert_equal(one: Batches, other: Batches) -> None:
    assert len(one) == len(other)
    for (images, labels), (their_images, their_labels) in zip(one, other, strict=True):
        assert torch.equal(images, their_images)
        assert torch.equal(labels, their_labels)


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.npy")
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_pass_decodes_nothing_and_gives_the_same(
    workers: int, tree: Tree, tmp_path: Path, decoded: list[str]
) -> None:
    without = load(loader(tree, None))
    first = load(loader(tree, tmp_path / "crops", workers=workers))
    decoded.clear()
    second = load(loader(tree, tmp_path / "crops"))
    assert not decoded
    assert_equal(first, without)
    assert_equal(second, without)


def test_an_augmented_pass_is_kept_for_its_seed_and_batch(tree: Tree, tmp_path: Path, decoded: list[str]) -> None:
    options = {"augment": True, "seed": 4}
    without = load(loader(tree, None), TRAIN, **options)
    assert_equal(load(loader(tree, tmp_path), TRAIN, **options), without)
    decoded.clear()
    state = torch.random.get_rng_state()
    assert_equal(load(loader(tree, tmp_path), TRAIN, **options), without)
    assert not decoded
    assert torch.equal(torch.random.get_rng_state(), state)
    other = load(loader(tree, tmp_path), TRAIN, augment=True, seed=5)
    assert not torch.equal(other[0][0], without[0][0])
    assert len(decoded) == 5
    list(loader(tree, tmp_path).batches(TRAIN, 2, augment=True, seed=4))
    assert len(decoded) == 10


def test_an_augmented_batch_that_lacks_an_image_is_drawn_whole(tree: Tree, tmp_path: Path, decoded: list[str]) -> None:
    without = load(loader(tree, None), TRAIN, augment=True)
    load(loader(tree, tmp_path), TRAIN, augment=True)
    spoil(only_file(tmp_path), row=1)
    decoded.clear()
    assert_equal(load(loader(tree, tmp_path), TRAIN, augment=True), without)
    assert len(decoded) == 3  # the first batch


def spoil(path: Path, row: int) -> None:
    rows = np.load(path, mmap_mode="r+")
    rows["pixels"][row, 0, 0, 0] ^= 1
    rows.flush()


def test_half_a_row_is_not_believed(tree: Tree, tmp_path: Path, decoded: list[str]) -> None:
    without = load(loader(tree, tmp_path))
    path = only_file(tmp_path)
    rows = np.load(path, mmap_mode="r+")
    rows["pixels"][2, 16:] = 0  # the second half was never written
    rows["check"][5] = 0  # nothing was
    rows.flush()
    decoded.clear()
    assert_equal(load(loader(tree, tmp_path)), without)
    assert len(decoded) == 2
    decoded.clear()
    assert_equal(load(loader(tree, tmp_path)), without)
    assert not decoded


def test_a_file_that_was_cut_off_is_made_anew(tree: Tree, tmp_path: Path, decoded: list[str]) -> None:
    without = load(loader(tree, tmp_path))
    os.truncate(only_file(tmp_path), 5_000)
    decoded.clear()
    assert_equal(load(loader(tree, tmp_path)), without)
    assert len(decoded) == len(ALL.indices)
    assert [path.suffix for path in tmp_path.iterdir() if path.is_file()] == [".npy"]


def test_a_changed_image_is_noticed(tree: Tree, tmp_path: Path, decoded: list[str]) -> None:
    before = load(loader(tree, tmp_path / "crops"))
    source = imagenet(tree.root)
    name = source.paths("val", ALL.indices)[4]
    (tree.root / "val" / name).unlink()
    Image.new("RGB", (50, 40), (10, 200, 30)).save(tree.root / "val" / name, "JPEG")
    decoded.clear()
    after = load(loader(tree, tmp_path / "crops"))
    assert len(decoded) == len(ALL.indices)
    assert not torch.equal(after[1][0][1], before[1][0][1])
    assert torch.equal(after[1][0][0], before[1][0][0])


def test_other_pixels_have_a_file_of_their_own_and_other_means_do_not(
    tree: Tree, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(loader(tree, tmp_path))
    decoded.clear()
    grey = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3))
    assert_equal(load(loader(tree, tmp_path, grey)), load(loader(tree, None, grey)))
    assert len(decoded) == len(ALL.indices)  # those without a cache
    others = [
        Preprocessing(resize=40, crop=32),
        Preprocessing(resize=36, crop=30),
        Preprocessing(resize=36, crop=32, interpolation="area"),
    ]
    for number, preprocessing in enumerate(others, start=2):
        load(loader(tree, tmp_path, preprocessing))
        assert len(list(tmp_path.glob("*.npy"))) == number
    monkeypatch.setattr(crop_cache, "version", lambda name: f"{name} of tomorrow")
    load(loader(tree, tmp_path))
    assert len(list(tmp_path.glob("*.npy"))) == 5


def test_an_unreadable_image_stays_one(tmp_path: Path, decoded: list[str]) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=1, corrupt=True)
    every = Selection("validation", "val", tuple(range(tree.val)), None)
    without = load(loader(tree, None), every)
    labels = torch.cat([labels for _, labels in without])
    assert int((labels < 0).sum()) == 1
    for _ in range(2):
        decoded.clear()
        assert_equal(load(loader(tree, tmp_path / "crops"), every), without)
    assert len(decoded) == 1


def test_shares_fill_one_file(tree: Tree, tmp_path: Path, decoded: list[str]) -> None:
    without = load(loader(tree, None))
    for rank in range(3):
        load(loader(tree, tmp_path), shard(ALL, rank, 3))
    decoded.clear()
    assert_equal(load(loader(tree, tmp_path)), without)
    assert not decoded
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_a_file_that_another_run_made_meanwhile_is_kept(tree: Tree, tmp_path: Path, decoded: list[str]) -> None:
    load(loader(tree, tmp_path))
    path = only_file(tmp_path)
    rows = path.read_bytes()
    empty = tmp_path / "empty.npy"
    empty.write_bytes(b"")
    crop_cache._publish(empty, path, replace=False)
    assert path.read_bytes() == rows
    decoded.clear()


def test_known_versions_are_not_asked_for(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = imagenet(tree.root)
    known = {(ALL.split, ALL.indices): source.version("val", ALL.indices)}
    load(loader(tree, tmp_path))

    def refused(*_: object) -> str:
        raise AssertionError("asked again")

    monkeypatch.setattr(source, "version", refused)
    load(ImageLoader(source, SMALL, CPU, 0, crop_cache=CropCache(tmp_path, known)))
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_the_size_is_logged_first_and_a_short_disk_refused(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, decoded: list[str]
) -> None:
    big = Preprocessing(resize=256, crop=224)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(BnrecalError, match=r"has 0.00 GB free, and 8 crops take 0.00 GB: choose another folder"):
        load(loader(tree, tmp_path / "crops", big))
    assert not decoded
    assert not list((tmp_path / "crops").iterdir())
    monkeypatch.undo()
    with caplog.at_level(logging.INFO, "bnrecal"):
        load(loader(tree, tmp_path / "crops", big))
    assert "8 crops, 0.00 GB, are kept in" in caplog.text


def test_a_disk_that_fills_up_costs_a_warning(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    without = load(loader(tree, None))
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "r+b":
            raise OSError(28, "No space left on device")
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    assert_equal(load(loader(tree, tmp_path)), without)
    assert caplog.text.count("takes no more crops (No space left on device)") == 1


def test_images_of_their_own_sizes_are_not_kept(tree: Tree, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    own_size = Preprocessing(resize=None, crop=None)
    one = replace_indices(ALL, (0,))
    assert_equal(load(loader(tree, tmp_path / "crops", own_size), one), load(loader(tree, None, own_size), one))
    assert not (tmp_path / "crops").exists()
    assert "without model.crop nothing is kept" in caplog.text


def replace_indices(selection: Selection, indices: tuple[int, ...]) -> Selection:
    return Selection(selection.role, selection.split, indices, selection.seed)
