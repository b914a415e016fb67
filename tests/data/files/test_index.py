"""The listing of a folder, and its cache."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.imagenet_tree import CLASSES, make_imagenet_tree

from bnrecal.data.files import index as module
from bnrecal.data.files.index import build_index, list_images, load_index, save_index
from bnrecal.errors import BnrecalError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path / "cache"))


def _age(root: Path) -> None:
    """As if the tree had been there for an hour: a fresh folder is never trusted."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - 3600,) * 2)


def _fail(_: Path) -> None:
    raise AssertionError("listed again")


def test_the_images_of_a_tree_are_listed_sorted(tmp_path: Path) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=2)
    index = list_images(tree.root / "val")
    names = [index.name(i) for i in range(len(index))]
    expected = sorted(
        path.relative_to(tree.root / "val").as_posix()
        for path in (tree.root / "val").rglob("*")
        if path.suffix.lower() in module.EXTENSIONS and not path.name.startswith(".")
    )
    assert names == expected
    assert index.classes() == sorted({*CLASSES.values(), "n02119789", "thumbnails"})
    labels = index.class_of({wnid: label for label, wnid in CLASSES.items()})
    by_wnid = {wnid: label for label, wnid in CLASSES.items()}
    assert labels.tolist() == [by_wnid.get(name.split("/")[0], -1) for name in names]


def test_a_second_look_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=1)
    _age(tree.root)
    first = list_images(tree.root / "train")
    monkeypatch.setattr(module, "_walk", _fail)
    second = list_images(tree.root / "train")
    assert (second.names, second.folders) == (first.names, first.folders)
    assert np.array_equal(second.class_of({"n01440764": 3}), first.class_of({"n01440764": 3}))


@pytest.mark.parametrize("change", ["add", "remove", "rename", "new class", "remove class", "nested"])
def test_a_changed_tree_is_listed_again(change: str, tmp_path: Path) -> None:
    root = make_imagenet_tree(tmp_path / "data", per_class=2).root / "train"
    _age(root)
    before = list_images(root)
    folder = root / CLASSES[0]
    image = next(folder.glob("n*.JPEG"))
    if change == "add":
        (folder / "z.JPEG").write_bytes(image.read_bytes())
    elif change == "remove":
        image.unlink()
    elif change == "rename":
        image.rename(folder / "z.JPEG")
    elif change == "new class":
        (root / "new").mkdir()
        (root / "new" / "z.JPEG").write_bytes(image.read_bytes())
    elif change == "remove class":
        (root / "thumbnails" / "a.jpg").unlink()
        (root / "thumbnails").rmdir()
    else:
        (folder / "more").mkdir()
        (folder / "more" / "z.JPEG").write_bytes(image.read_bytes())
    assert list_images(root).names != before.names


def test_a_folder_that_changed_a_moment_ago_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOCK_SLACK_NS", 10**12)  # a moment of 17 minutes, for a slow machine
    root = make_imagenet_tree(tmp_path / "data", per_class=1).root / "train"
    list_images(root)
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_a_damaged_cache_is_listed_again(tmp_path: Path) -> None:
    root = make_imagenet_tree(tmp_path / "data", per_class=1).root / "train"
    _age(root)
    before = list_images(root)
    (cached,) = (tmp_path / "cache").rglob("*.npz")
    for content in (b"", b"no zip", cached.read_bytes()[:-50]):
        cached.write_bytes(content)
        assert list_images(root).names == before.names


def test_names_beyond_ascii_come_back(tmp_path: Path) -> None:
    index = build_index([("", []), ("cañón", ["a b.png", "ß.JPG"])], [1, 2])
    save_index(index, tmp_path / "i.npz")
    loaded = load_index(tmp_path / "i.npz")
    assert loaded is not None
    assert [loaded.name(i) for i in range(2)] == ["cañón/a b.png", "cañón/ß.JPG"]


def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BnrecalError, match=r"cannot list .*nowhere"):
        list_images(tmp_path / "nowhere")


def test_1_3_million_paths_survive_the_cache(tmp_path: Path) -> None:
    """ImageNet's size, simulated; loading takes a fraction of a second (measured by hand, not here)."""
    pairs: list[tuple[str, list[str]]] = [("", [])]
    for c in range(1000):
        pairs.append((f"n{c:08d}", [f"n{c:08d}_{i}.JPEG" for i in range(1300)]))
    index = build_index(pairs, range(1001))
    save_index(index, tmp_path / "i.npz")
    loaded = load_index(tmp_path / "i.npz")
    assert loaded is not None
    assert len(loaded) == 1_300_000
    assert loaded.names == index.names
    for i in (0, 1, 1299, 1300, 654_321, 1_299_999):
        assert loaded.name(i) == index.name(i)
    labels = loaded.class_of({f"n{c:08d}": c for c in range(1000)})
    assert labels[[0, 1299, 1300, 1_299_999]].tolist() == [0, 0, 1, 999]
