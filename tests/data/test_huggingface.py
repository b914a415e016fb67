"""Data sets of the library `datasets`: the same images and labels as files, and one line for what cannot be."""

import hashlib
import io
import logging
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from helpers.imagenet_tree import picture
from torch import Tensor
from torch.utils.data import DataLoader

from bnrecal.config import DataConfig, ModelConfig
from bnrecal.data import build_source
from bnrecal.data.base import ImageSource, Split
from bnrecal.data.files.folder import FolderSource
from bnrecal.data.files.label_lists import wnids
from bnrecal.data.huggingface import _categories, _is_imagenet
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError
from bnrecal.files import log_once, warn_once
from bnrecal.models import load_model

CLASSES = ("ant", "bee", "cat")
SMALL = Preprocessing(resize=32, crop=24)
Row = tuple[bytes | None, int | None]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    warn_once.cache_clear()
    log_once.cache_clear()


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed, 60, 48).save(buffer, "JPEG")
    return buffer.getvalue()


def rows(first: int, count: int = 6) -> list[Row]:
    return [(jpeg(first + i), (i * 2) % 3) for i in range(count)]


def table(rows: Sequence[Row], label: Any, names: Sequence[str] = ("image", "label")) -> datasets.Dataset:
    images = [
        None if content is None else {"bytes": content, "path": f"{i}.jpg"} for i, (content, _) in enumerate(rows)
    ]
    features = datasets.Features({names[0]: datasets.Image(), names[1]: label, "note": datasets.Value("string")})
    content = {names[0]: images, names[1]: [label for _, label in rows], "note": ["x"] * len(rows)}
    return datasets.Dataset.from_dict(content, features=features)


def write_parquet(folder: Path, train: Sequence[Row], val: Sequence[Row], label: Any = None) -> Path:
    """As the hub publishes a set: shards named by split, one of a test split beside them."""
    label = label or datasets.ClassLabel(names=list(CLASSES))
    (folder / "data").mkdir(parents=True)
    half = len(train) // 2
    for number, part in enumerate((train[:half], train[half:])):
        table(part, label).to_parquet(folder / "data" / f"train-{number:05d}-of-00002.parquet")
    table(val, label).to_parquet(folder / "data" / "validation-00000-of-00001.parquet")
    table([(jpeg(0), -1)], label).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def write_files(folder: Path, train: Sequence[Row], val: Sequence[Row]) -> Path:
    for split, own in (("train", train), ("val", val)):
        for number, (content, label) in enumerate(own):
            assert content is not None
            assert label is not None
            path = folder / split / CLASSES[label] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def source(root: Path, **options: Any) -> ImageSource:
    return build_source(DataConfig(name="huggingface", root=str(root), **options))


def read(own: ImageSource, split: Split) -> list[tuple[Tensor, int]]:
    dataset = own.dataset(split, range(own.size(split)), SMALL)
    return [dataset[i] for i in range(own.size(split))]


def digest(items: Sequence[tuple[Tensor, int]]) -> set[tuple[str, int]]:
    return {(hashlib.sha256(image.numpy().tobytes()).hexdigest(), label) for image, label in items}


def write_shards(folder: Path, train: Sequence[Row], val: Sequence[Row]) -> Path:
    for name, own in (("set-train-0000.tar", train), ("set-validation-0000.tar", val)):
        folder.mkdir(exist_ok=True)
        with tarfile.open(folder / name, "w") as tar:
            for number, (content, label) in enumerate(own):
                for ending, data in (("jpg", content), ("cls", str(label).encode())):
                    assert data is not None
                    entry = tarfile.TarInfo(f"{number:06d}.{ending}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return folder


def save(folder: Path, train: Sequence[Row], val: Sequence[Row]) -> Path:
    label = datasets.ClassLabel(names=list(CLASSES))
    datasets.DatasetDict(train=table(train, label), validation=table(val, label)).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("write", [write_parquet, write_shards, save])
def test_images_and_labels_are_those_of_the_same_files(write: Any, tmp_path: Path) -> None:
    train = rows(0)
    val = rows(100, 5)
    own = source(write(tmp_path / "hf", train, val))
    files = build_source(DataConfig(name="imagefolder", root=str(write_files(tmp_path / "files", train, val))))
    assert isinstance(files, FolderSource)
    assert own.num_classes == files.num_classes == 3
    assert not own.imagenet_classes
    for split in ("train", "val"):
        assert digest(read(own, split)) == digest(read(files, split))
    assert [label for _, label in read(own, "val")] == [label for _, label in val]


def test_rows_come_in_any_order_from_any_process(tmp_path: Path) -> None:
    own = source(write_parquet(tmp_path / "hf", rows(0), rows(100)))
    dataset = own.dataset("train", [4, 1, 3], SMALL)
    assert [label for _, label in pickle.loads(pickle.dumps(dataset))] == [2, 2, 0]
    loaded = torch.cat([images for images, _ in DataLoader(dataset, 2, num_workers=1)])
    assert torch.equal(loaded, torch.stack([dataset[i][0] for i in range(3)]))


def test_fingerprints_follow_rows_and_versions_content(tmp_path: Path) -> None:
    own = source(write_parquet(tmp_path / "a", rows(0), rows(100)))
    again = source(tmp_path / "a")
    assert own.fingerprint("val", [0, 2]) == again.fingerprint("val", [0, 2]) != own.fingerprint("val", [2, 0])
    assert own.version("val", [0, 2]) == again.version("val", [0, 2]) != own.version("val", [0, 1])
    other = source(write_parquet(tmp_path / "b", rows(0), rows(200)))
    assert other.version("val", [0, 2]) != own.version("val", [0, 2])


def test_images_taken_and_left_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    val: list[Row] = [*rows(100, 4), (None, 1), (b"no image", 2)]
    root = write_parquet(tmp_path / "hf", rows(0), val)
    with caplog.at_level(logging.INFO):
        own = source(root, skip_corrupt=True)
    assert f"train: 6 images of 6 rows in {root}" in caplog.text
    assert f"val: 5 images of 6 rows in {root}; left out: 1 without an image (row 4)" in caplog.text
    assert "1 of 3 files are of neither train nor validation" not in caplog.text
    assert "1 of 4 files are of neither train nor validation by their names, and left out (test-00000" in caplog.text
    assert [label for _, label in read(own, "val")] == [0, 2, 1, 0, -1]
    strict = source(root)
    with pytest.raises(BnrecalError, match=r"hf \(val\) row 5 cannot be read as an image"):
        read(strict, "val")


def test_classes_without_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source(write_parquet(tmp_path / "hf", rows(0), [(jpeg(1), 0), (jpeg(2), 2)]))
    assert "val: 1 of 3 classes have no images: bee" in caplog.text


def plain(label: Any) -> Any:
    return lambda folder: write_parquet(folder, rows(0), label, datasets.Value("int64"))


def other_columns(folder: Path) -> Path:
    label = datasets.ClassLabel(names=list(CLASSES))
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        table(rows(0), label, ("image", "label")).rename_column("label", "coarse").add_column(
            "fine", [0] * 6
        ).cast_column("fine", label).to_parquet(folder / split / "0.parquet")
    return folder


def other_names(folder: Path) -> Path:
    write_parquet(folder, rows(0), rows(100))
    table(rows(0), datasets.ClassLabel(names=["bee", "ant", "cat"])).to_parquet(
        folder / "data" / "validation-00000-of-00001.parquet"
    )
    return folder


def only_train(folder: Path) -> Path:
    folder.mkdir()
    table(rows(0), datasets.Value("int32")).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (plain([(jpeg(1), -1)]), r"\(val\) row 0 has the label -1, which is no class: the labels of test splits"),
        (plain([(jpeg(1), None)]), "1 rows have no label"),
        (other_columns, r"has several label columns \(coarse, fine\) among image, coarse, note, fine"),
        (other_names, "the classes of train and validation have other names or another order"),
        (only_train, "has no split validation, only train"),
        (lambda folder: folder.mkdir(), "has no Parquet files"),
        (lambda _: None, "is no folder, and no name on the hub"),
    ],
)
def test_what_cannot_be_used_is_one_line(write: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "hf")
    with pytest.raises(BnrecalError, match=message) as caught:
        source(tmp_path / "hf")
    assert "\n" not in str(caught.value)


def test_a_missing_library_and_a_missing_root_say_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BnrecalError, match=r"data=huggingface needs data\.root=PATH"):
        build_source(DataConfig(name="huggingface"))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(BnrecalError, match=r"pip install 'bnrecal\[huggingface\]'"):
        source(tmp_path)


def test_imagenets_classes_are_known_by_their_names() -> None:
    synonyms = [f"{name}, Latin name" for name in _categories()]
    assert _is_imagenet("x", wnids())
    assert _is_imagenet("x", synonyms)
    assert not _is_imagenet("x", list(reversed(synonyms)))
    assert not _is_imagenet("x", synonyms[:10])
    with pytest.raises(BnrecalError, match="class 0 is n01443537, where published networks have n01440764"):
        _is_imagenet("x", [wnids()[1], wnids()[0], *wnids()[2:]])


def test_networks_with_a_background_class_take_imagenet_from_parquet(tmp_path: Path) -> None:
    synonyms = datasets.ClassLabel(names=[f"{name}, Latin name" for name in _categories()])
    own = source(write_parquet(tmp_path / "hf", rows(0), rows(100), synonyms))
    assert own.imagenet_classes
    config = ModelConfig(name="grey", family="custom", factory="helpers.nets:grey_net")
    assert load_model(config, own).label_offset == 1
    assert [label for _, label in read(own, "train")] == [label for _, label in rows(0)]
