"""Folders that are not quite a data set: every image is taken or counted, or one line says what would do."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.imagenet_tree import CLASSES, picture

from bnrecal.config import DataConfig
from bnrecal.data import build_source
from bnrecal.data.files.folder import FolderSource
from bnrecal.data.files.imagefolder import in_class_order
from bnrecal.data.files.imagenette import CLASSES as IMAGENETTE
from bnrecal.data.files.index import list_images
from bnrecal.errors import BnrecalError

WNID = CLASSES[0]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def _save(path: Path, format: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(1, 30, 20).save(path, format)


def _source(name: str, root: Path) -> FolderSource:
    source = build_source(DataConfig(name=name, root=str(root)))
    assert isinstance(source, FolderSource)
    return source


# The order of classes


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "0", "1"], ["0", "1", "9", "10"]),
        (["0010", "0009"], ["0009", "0010"]),
        (["100", "99", "00"], ["00", "99", "100"]),  # printf's %02d
        (["b", "B", "a1", "a10", "a9"], ["B", "a1", "a10", "a9", "b"]),
        (["A", "9", "0"], ["0", "9", "A"]),  # numbers and names, in either order
    ],
)
def test_numbers_are_ordered_by_value_and_names_as_text(names: list[str], order: list[str]) -> None:
    assert in_class_order(names) == order


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["9", "10", "other"], "numbers (9, 10) and names (other)"),
        (["1", "02", "10"], "class folders 1 and 02 are padded with zeros to different"),
        (["1", "01"], "class folders 1 and 01 are padded with zeros to different"),
    ],
)
def test_an_unclear_order_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(BnrecalError) as caught:
        in_class_order(names)
    assert message in str(caught.value)


def test_numeric_class_folders_are_labelled_by_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in map(str, range(12)):
        _save(tmp_path / "train" / name / "a.jpg")
        _save(tmp_path / "val" / name / "a.jpg")
    source = _source("imagefolder", tmp_path)
    listing = source._listing("val")
    by_name = dict(zip(source.paths("val", range(12)), listing.labels.tolist(), strict=True))
    assert by_name == {f"{number}/a.jpg": number for number in range(12)}
    assert "taken as such, 2 before 11; a network trained with torchvision's ImageFolder" in caplog.text
    with pytest.raises(BnrecalError, match=r"class folders named by numbers .* or take data=imagefolder"):
        _source("imagenet", tmp_path).size("train")
    with pytest.raises(BnrecalError, match="class folders named by numbers"):
        _source("imagenet", tmp_path).size("val")


# What is an image


def test_content_tells_images_of_other_names(tmp_path: Path) -> None:
    for name, format in {"a.jfif": "JPEG", "b": "PNG", "c.x": "WEBP", "d.bin": "BMP", "e.1": "TIFF"}.items():
        _save(tmp_path / name, format)
    (tmp_path / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "g").write_text("BM is no bitmap, P6 no pixmap")
    (tmp_path / "h.txt").write_text("a note")
    index = list_images(tmp_path)
    assert [index.name(i) for i in range(len(index))] == ["a.jfif", "b", "c.x", "d.bin", "e.1"]
    assert index.left_out == {"no images by name or content": ["f.heic", "g"]}


def test_what_is_left_out_is_counted_also_from_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save(tmp_path / "train" / WNID / "a.jpg")
    (tmp_path / "train" / WNID / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "val").mkdir()
    for folder, _, _ in os.walk(tmp_path):
        os.utime(folder, (1e9, 1e9))
    with caplog.at_level(logging.INFO):
        assert _source("imagenet", tmp_path).size("train") == 1
    reported = (
        f"train: 1 images of 2 files in {tmp_path}/train; left out: 1 no images by name or content ({WNID}/b.heic)"
    )
    assert reported in [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    assert list_images(tmp_path / "train").left_out == {"no images by name or content": [f"{WNID}/b.heic"]}
    assert "listing" not in caplog.text


def test_broken_links_are_counted_and_found_again_when_they_are_mended(tmp_path: Path) -> None:
    _save(tmp_path / "set" / "a.jpg")
    (tmp_path / "set" / "b.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    os.utime(tmp_path / "set", (1e9, 1e9))
    assert list_images(tmp_path / "set").left_out == {"broken links": ["b.jpg"]}
    _save(tmp_path / "elsewhere.jpg")
    assert (len(list_images(tmp_path / "set")), list_images(tmp_path / "set").left_out) == (2, {})


def test_a_whole_set_is_counted_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        _save(tmp_path / split / "cat" / "a.jpg")
        (tmp_path / split / "cat" / "notes.txt").write_text("a note")
    with caplog.at_level(logging.INFO):
        _source("imagefolder", tmp_path).size("val")
    counted = [record for record in caplog.records if "files in" in record.getMessage()]
    assert [(r.levelname, r.getMessage()) for r in counted] == [("INFO", f"val: 1 images of 1 files in {tmp_path}/val")]


def test_imagenette_counts_what_it_does_not_take(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, wnid in enumerate(IMAGENETTE):
        _save(tmp_path / "train" / wnid / f"{wnid}_1.JPEG")
        _save(tmp_path / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG")
    _save(tmp_path / "val" / "ILSVRC2012_val_00000099.JPEG")
    (tmp_path / "train" / IMAGENETTE[0] / "gone.JPEG").symlink_to(tmp_path / "nowhere")
    source = _source("imagenette", tmp_path)
    assert (source.size("train"), source.size("val")) == (10, 10)
    left_out = "1 broken links (train/n01440764/gone.JPEG), 1 in no class folder of Imagenette (val/ILSVRC2012_val_000"
    for counted in ("train: 10 images of 12 files", "val: 10 images of 12 files"):
        assert f"{counted} in {tmp_path}; left out: {left_out}" in caplog.text


# Two layouts at once, and others


@pytest.mark.parametrize("name", ["imagenet", "imagefolder"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_loose_images_beside_class_folders_are_refused(name: str, split: str, tmp_path: Path) -> None:
    for each in ("train", "val"):
        _save(tmp_path / each / WNID / "a.jpg")
    _save(tmp_path / split / "b.jpg")
    (tmp_path / "val.txt").write_text("b.jpg 3\n")
    with pytest.raises(BnrecalError, match=f"{split} holds 1 images of its own beside folders with 1 .{WNID}.: put"):
        _source(name, tmp_path).size(split)  # type: ignore[arg-type]


def test_an_empty_class_folder_does_not_make_a_flat_val_another(tmp_path: Path) -> None:
    _save(tmp_path / "val" / "b.jpg")
    (tmp_path / "val" / WNID).mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "val.txt").write_text("b.jpg 3\n")
    assert _source("imagenet", tmp_path)._listing("val").labels.tolist() == [3]


def _renamed(root: Path) -> None:
    (root / "val").rename(root / "validation")


def _nested(root: Path) -> None:
    _save(root / "val" / "val" / WNID / "a.jpg")


def _archives(root: Path) -> None:
    (root / "val" / "n01440764.tar").write_bytes(b"")


def _tables(root: Path) -> None:
    (root / "val").rmdir()
    (root / "train-00000-of-00294.parquet").write_bytes(b"")


def _tables_of_the_hub(root: Path) -> None:
    (root / "val").rmdir()
    (root / "data").mkdir()
    (root / "data" / "validation-00000-of-00014.parquet").write_bytes(b"")


def _deeper(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).rmdir()
        (root / "images" / split).mkdir(parents=True)


def _kaggle(root: Path) -> None:
    _deeper(root)
    (root / "ILSVRC" / "Data" / "CLS-LOC").mkdir(parents=True)


@pytest.mark.parametrize("name", ["imagenet", "imagefolder"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_renamed, r"has no folder val/: it holds validation/ instead: rename it to val or link to it"),
        (_archives, r"it holds 1 \*\.tar \(n01440764\.tar\): unpack such archives"),
        (_tables, r"has no folder val/: it holds 1 \*\.parquet .*: set data=huggingface, which reads such tables"),
        (
            _tables_of_the_hub,
            r"it holds 1 \*\.parquet \(data/validation-.*: set data=huggingface, which reads such tables",
        ),
        (_deeper, r"set data\.root=.*/set/images, which holds train/ or val/"),
        (_kaggle, r"set data\.root=.*/set/ILSVRC/Data/CLS-LOC"),
    ],
)
def test_what_lies_there_instead_is_reported(
    name: str, make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    _save(root / "train" / WNID / "a.jpg")
    (root / "train" / WNID / "a.jpg").unlink()
    (root / "train" / WNID).rmdir() if make in (_deeper, _kaggle) else None
    (root / "val").mkdir()
    make(root)
    with pytest.raises(BnrecalError, match=message) as caught:
        _source(name, root).size("val")
    assert "\n" not in str(caught.value)


def test_a_nested_val_is_reported(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    _nested(tmp_path)
    with pytest.raises(BnrecalError, match=r"move the content of .*/val/val one folder up"):
        _source("imagenet", tmp_path).size("val")


def test_a_split_given_for_the_set_is_reported(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    with pytest.raises(BnrecalError, match=f"set data.root={tmp_path}, which holds val/"):
        _source("imagenet", tmp_path / "val")
