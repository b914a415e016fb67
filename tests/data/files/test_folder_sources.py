"""ImageNet, Imagenette and image folders as sources of labelled images."""

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.imagenet_tree import CLASSES, make_imagenet_tree, picture
from PIL import Image
from torch.utils.data import DataLoader

from bnrecal.config import DataConfig
from bnrecal.data import build_source
from bnrecal.data.base import ImageSource
from bnrecal.data.files.folder import FolderSource
from bnrecal.data.files.imagenette import CLASSES as IMAGENETTE
from bnrecal.data.files.label_lists import wnids
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError

SMALL = Preprocessing(resize=40, crop=32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path / "cache"))


def _imagenet(root: Path, *, skip_corrupt: bool = False) -> FolderSource:
    source = build_source(DataConfig(name="imagenet", root=str(root), skip_corrupt=skip_corrupt))
    assert isinstance(source, FolderSource)
    return source


def _labels(source: ImageSource) -> list[int]:
    size = source.size("val")
    images = source.dataset("val", range(size), SMALL)
    return [int(images[i][1]) for i in range(size)]


def test_the_1000_synsets_are_sorted_and_whole() -> None:
    assert len(set(wnids())) == 1000
    assert list(wnids()) == sorted(wnids())
    assert (wnids()[0], wnids()[281], wnids()[999]) == ("n01440764", "n02123045", "n15075141")


def test_labels_come_from_the_synsets_and_every_kind_of_file_is_read(tmp_path: Path) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=2)
    source = _imagenet(tree.root)
    assert (source.size("train"), source.size("val"), source.num_classes) == (tree.train, tree.val, 1000)
    names = source.paths("val", range(tree.val))
    by_wnid = {wnid: label for label, wnid in CLASSES.items()}
    assert _labels(source) == [by_wnid[name.split("/")[0]] for name in names]


def test_items_are_the_preprocessed_files_in_the_order_asked_for(tmp_path: Path) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=2)
    source = _imagenet(tree.root)
    chosen = [9, 3, 3]
    dataset = source.dataset("train", chosen, SMALL)
    for i, name in enumerate(source.paths("train", chosen)):
        with Image.open(tree.root / "train" / name) as image:
            assert torch.equal(dataset[i][0], SMALL.evaluation(image.convert("RGB")))
    assert len(list(DataLoader(dataset, 2))) == 2


def test_extra_folders_and_missing_classes_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=1)
    source = _imagenet(tree.root)
    with caplog.at_level(logging.WARNING):
        source.size("train")
        source.size("train")
    assert len(caplog.records) == 2
    counted = f"train: 8 images of 9 files in {tree.root}/train; left out: 1 in folders that are no ImageNet class"
    assert f"{counted} (thumbnails/a.jpg)" in caplog.text
    assert f"train: 992 of the 1,000 classes have no images in {tree.root}/train: n01484850, " in caplog.text


def test_a_corrupt_file_stops_with_its_path(tmp_path: Path) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=1, corrupt=True)
    with pytest.raises(BnrecalError, match=r"ILSVRC2012_val_00049999\.JPEG cannot be read.*skip_corrupt=true"):
        _labels(_imagenet(tree.root))


def test_a_corrupt_file_can_be_marked_instead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=1, corrupt=True)
    source = _imagenet(tree.root, skip_corrupt=True)
    with caplog.at_level(logging.WARNING):
        labels = _labels(source)
    assert labels.count(-1) == 1
    assert labels.index(-1) == source.paths("val", range(tree.val)).index(
        f"{CLASSES[999]}/ILSVRC2012_val_00049999.JPEG"
    )
    assert "left out: " in caplog.text
    marked, _ = source.dataset("val", [labels.index(-1)], SMALL)[0]
    assert torch.equal(marked, SMALL.evaluation(Image.new("RGB", (40, 40))))


def test_the_augmentation_follows_the_global_seed_alone(tmp_path: Path) -> None:
    dataset = _imagenet(make_imagenet_tree(tmp_path / "data", per_class=1).root).dataset(
        "train", [0, 0], SMALL, augment=True
    )
    torch.manual_seed(5)
    first = [dataset[0][0], dataset[1][0]]
    torch.manual_seed(5)
    assert torch.equal(dataset[0][0], first[0])
    assert not torch.equal(first[0], first[1])


def test_fingerprints_tell_choices_apart_and_versions_changed_files(tmp_path: Path) -> None:
    tree = make_imagenet_tree(tmp_path / "data", per_class=2)
    source = _imagenet(tree.root)
    choices = [("train", [0, 1]), ("train", [1, 0]), ("train", [0]), ("val", [0, 1])]
    assert len({source.fingerprint(split, chosen) for split, chosen in choices}) == len(choices)  # type: ignore[arg-type]
    before = source.fingerprint("val", [0, 1]), source.version("val", [0, 1])
    path = tree.root / "val" / source.paths("val", [1])[0]
    os.utime(path, (1, 1))
    assert source.fingerprint("val", [0, 1]) == before[0]
    assert source.version("val", [0, 1]) != before[1]


def test_a_dataset_travels_to_worker_processes(tmp_path: Path) -> None:
    source = _imagenet(make_imagenet_tree(tmp_path / "data", per_class=1).root)
    dataset = source.dataset("val", [2, 0], SMALL)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1][0], dataset[1][0])
    assert pickle.loads(pickle.dumps(source)).fingerprint("val", [2, 0]) == source.fingerprint("val", [2, 0])


# A flat val/ and its label files


def _flat(tmp_path: Path, numbers: list[int]) -> Path:
    root = make_imagenet_tree(tmp_path / "data", per_class=1).root
    val = tmp_path / "flat" / "val"
    val.mkdir(parents=True)
    (tmp_path / "flat" / "train").symlink_to(root / "train")
    for number in numbers:
        picture(number, 50, 40).save(val / f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path / "flat"


def test_a_flat_val_without_labels_says_what_to_put_where(tmp_path: Path) -> None:
    root = _flat(tmp_path, [1])
    with pytest.raises(BnrecalError, match=r"val has no class folders: put val\.txt"):
        _imagenet(root).size("val")


@pytest.mark.parametrize("place", ["", "val"])
def test_a_flat_val_with_val_txt(place: str, tmp_path: Path) -> None:
    root = _flat(tmp_path, [1, 2, 3])
    lines = "ILSVRC2012_val_00000001.JPEG 65\nval/ILSVRC2012_val_00000003.JPEG 970\n\n"
    (root / place / "val.txt").write_text(lines)
    source = _imagenet(root)
    assert _labels(source) == [65, 970]  # the second has no line and is left out
    assert source.paths("val", [1]) == ["ILSVRC2012_val_00000003.JPEG"]


@pytest.mark.parametrize("line", ["a.JPEG", "a.JPEG -1", "a.JPEG n01440764", "a.JPEG 1 2"])
def test_a_bad_line_of_val_txt_is_named(line: str, tmp_path: Path) -> None:
    root = _flat(tmp_path, [1])
    (root / "val.txt").write_text(f"b.JPEG 3\n{line}\n")
    with pytest.raises(BnrecalError, match=r"val\.txt line 2"):
        _imagenet(root).size("val")


def test_a_flat_val_with_kaggles_table(tmp_path: Path) -> None:
    root = _flat(tmp_path, [1, 2])
    table = "ImageId,PredictionString\nILSVRC2012_val_00000002,n15075141 85 1 499 272 n15075141 3 4 5 6 \n"
    (root / "LOC_val_solution.csv").write_text(table + "ILSVRC2012_val_00000001,n01443537 1 2 3 4\n")
    assert _labels(_imagenet(root)) == [1, 999]


def test_a_flat_val_with_the_devkit_takes_its_order_of_classes_from_meta_mat(tmp_path: Path) -> None:
    root = _flat(tmp_path, [1, 3])
    devkit = root / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1000\n")
    with pytest.raises(BnrecalError, match=r"meta\.mat"):
        _imagenet(root).size("val")
    _write_meta(devkit / "meta.mat")
    assert _labels(_imagenet(root)) == [999, 0]  # ILSVRC id 1 is the last synset in this order, 1000 the first


def _write_meta(path: Path) -> None:
    from scipy.io import savemat

    rows = np.zeros(1001, dtype=[("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("num_children", "f8")])
    for i, wnid in enumerate(reversed(wnids())):
        rows[i] = (i + 1, wnid, 0)
    rows[1000] = (1001, "n00001740", 9)  # an inner synset
    savemat(path, {"synsets": rows[:, None]})


def test_another_meta_mat_is_reported(tmp_path: Path) -> None:
    root = _flat(tmp_path, [1])
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    (root / "meta.mat").write_bytes(b"not Matlab's")
    with pytest.raises(BnrecalError, match=r"meta\.mat is not the devkit's"):
        _imagenet(root).size("val")


# The other sets


def _class_folders(root: Path, names: dict[str, tuple[str, ...]]) -> Path:
    for split, classes in names.items():
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            picture(number, 50, 40).save(root / split / name / "a.JPEG")
    return root


def _imagenette(root: Path, classes: tuple[str, ...] = IMAGENETTE) -> Path:
    """As fast.ai shuffled it: images of ImageNet's training and validation split in train/ as in val/."""
    for split in ("train", "val"):
        for number, wnid in enumerate(classes):
            (root / split / wnid).mkdir(parents=True)
            for name in (f"ILSVRC2012_val_{number:08d}", f"{wnid}_{number}", f"{wnid}_{number + 1}"):
                picture(number, 50, 40).save(root / split / wnid / f"{name}.JPEG")
    return root


@pytest.mark.parametrize("below", ["", "imagenette2", "imagenette2-160"])
def test_imagenette_is_found_labelled_and_split_as_imagenet(below: str, tmp_path: Path) -> None:
    _imagenette(tmp_path / "d" / below)
    source = build_source(DataConfig(name="imagenette", root=str(tmp_path / "d")))
    assert isinstance(source, FolderSource)
    assert (source.num_classes, source.size("train"), source.size("val")) == (1000, 40, 20)
    assert source.restricted_classes == (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
    assert _labels(source) == [*source.restricted_classes, *source.restricted_classes]
    assert all("/ILSVRC2012_val_" in name for name in source.paths("val", range(20)))
    assert not any("/ILSVRC2012_val_" in name for name in source.paths("train", range(40)))


def test_a_missing_imagenette_says_how_to_get_it(tmp_path: Path) -> None:
    for root in (None, str(tmp_path)):
        with pytest.raises(BnrecalError, match=r"data\.download=true"):
            build_source(DataConfig(name="imagenette", root=root))


def test_half_an_imagenette_is_refused(tmp_path: Path) -> None:
    _imagenette(tmp_path, IMAGENETTE[:9])
    source = build_source(DataConfig(name="imagenette", root=str(tmp_path)))
    with pytest.raises(BnrecalError, match=r"no images besides ILSVRC2012_val_\* of n03888257"):
        source.size("train")
    with pytest.raises(BnrecalError, match=r"no images named ILSVRC2012_val_\* of n03888257"):
        source.size("val")


def test_a_failed_download_says_what_to_unpack_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.Imagenette", fail)
    with pytest.raises(BnrecalError, match=r"no route to host.*unpack https://.*imagenette2\.tgz into"):
        build_source(DataConfig(name="imagenette", root=str(tmp_path), download=True))


def test_an_image_folder_numbers_its_classes_in_sorted_order(tmp_path: Path) -> None:
    root = _class_folders(tmp_path, {"train": ("cat", "Ant", "bee"), "val": ("Ant", "bee", "cat")})
    source = build_source(DataConfig(name="imagefolder", root=str(root)))
    assert isinstance(source, FolderSource)
    assert (source.name, source.num_classes, source.restricted_classes) == ("imagefolder", 3, None)
    assert _labels(source) == [0, 1, 2]
    assert source.paths("val", [0]) == ["Ant/a.JPEG"]


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    root = _class_folders(tmp_path, {"train": ("ant", "bee"), "val": ("ant", "cat")})
    with pytest.raises(BnrecalError, match="same classes, bee"):
        build_source(DataConfig(name="imagefolder", root=str(root)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="cifar"), "data=cifar: choose one of glyphs, imagenet, imagenette, imagefolder"),
        (DataConfig(name="imagenet"), "data=imagenet needs data.root=PATH"),
        (DataConfig(name="imagefolder", root="/nowhere"), "data.root=/nowhere is not a folder"),
        (DataConfig(name="imagefolder", root="/usr"), "data.root=/usr has no folder train/"),
        (DataConfig(name="imagenet", root="/usr"), "data.root=/usr has no folder train/"),
    ],
)
def test_a_source_that_cannot_be_had_is_reported_in_one_line(config: DataConfig, message: str) -> None:
    with pytest.raises(BnrecalError) as caught:
        build_source(config)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "n01440764").mkdir(parents=True)
    with pytest.raises(BnrecalError, match="no images of the data set below"):
        _imagenet(tmp_path).size("train")
