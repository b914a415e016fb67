"""Lists that label a flat val/: taken for what they must be, or refused in one line."""

import logging
from pathlib import Path

import pytest
from helpers.imagenet_tree import picture

from bnrecal.data.files.folder import FolderSource
from bnrecal.data.files.imagenet import imagenet
from bnrecal.data.files.label_lists import KAGGLE, wnids
from bnrecal.data.preprocessing import Preprocessing
from bnrecal.errors import BnrecalError

SMALL = Preprocessing(resize=8, crop=8)
COUNT = 12
TRUE = [65, 970, 230, 809, 516, 57, 334, 415, 674, 332, 999, 0]  # of the first images of ILSVRC 2012, nearly


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A flat val/ of a dozen images, without labels."""
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    for number in range(1, COUNT + 1):
        picture(number, 40, 40).save(tmp_path / "val" / f"{_stem(number)}.JPEG")
    return tmp_path


def _stem(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def _list(labels: list[int], first: int = 1) -> str:
    return "".join(f"{_stem(first + i)}.JPEG {label}\n" for i, label in enumerate(labels))


def _labels(root: Path) -> list[int]:
    source = imagenet(root)
    assert isinstance(source, FolderSource)
    return [source.dataset("val", [i], SMALL)[0][1] for i in range(source.size("val"))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_the_encodings_of_windows_are_read_whole(encoding: str, root: Path) -> None:
    (root / "val.txt").write_text(_list(TRUE), encoding=encoding)
    assert _labels(root) == TRUE


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (list(range(1, COUNT + 1)), r"val\.txt numbers its files \(1 to 12\) instead of giving their classes"),
        (list(range(COUNT)), r"val\.txt numbers its files \(0 to 11\)"),
        ([label + 1 for label in TRUE], r"val\.txt counts classes from 1 \(1 to 1000\): take 1 from each"),
        ([1000, *TRUE[1:]], r"val\.txt says 'ILSVRC2012_val_00000001' is of class 1000: classes are 0\.\.999"),
        ([*TRUE, 5], r"val\.txt lists 13 files, and 1 of them are no images in val/ \(ILSVRC2012_val_00000013\)"),
        ([], r"val\.txt has no lines of 'file class'"),
    ],
)
def test_a_list_of_something_else_is_refused(labels: list[int], message: str, root: Path) -> None:
    (root / "val.txt").write_text(_list(labels))
    with pytest.raises(BnrecalError, match=message):
        imagenet(root).size("val")


def test_a_part_of_kaggles_numbered_list_is_refused(root: Path) -> None:
    """Its numbers are neither in a row nor out of range: they are those in the names."""
    for number in (100, 300):
        picture(number, 40, 40).save(root / "val" / f"{_stem(number)}.JPEG")
    numbers = [*range(1, COUNT + 1), 100, 300]
    (root / "val.txt").write_text("".join(f"{_stem(number)} {number}\n" for number in numbers))
    with pytest.raises(BnrecalError, match=r"numbers its files \(1 to 300\)"):
        imagenet(root).size("val")


def test_few_lines_are_labels_though_in_a_row(root: Path) -> None:
    for number in range(4, COUNT + 1):
        (root / "val" / f"{_stem(number)}.JPEG").unlink()
    (root / "val.txt").write_text(_list([0, 1, 2]))
    assert _labels(root) == [0, 1, 2]


def test_a_row_of_all_classes_is_one_image_of_each(root: Path) -> None:
    content = (root / "val" / f"{_stem(1)}.JPEG").read_bytes()
    for number in range(1, 1001):
        (root / "val" / f"a{number:04d}.JPEG").write_bytes(content)
    for number in range(1, COUNT + 1):
        (root / "val" / f"{_stem(number)}.JPEG").unlink()
    (root / "val.txt").write_text("".join(f"a{number:04d}.JPEG {number - 1}\n" for number in range(1, 1001)))
    assert imagenet(root).size("val") == 1000


def test_images_that_the_list_lacks_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "val.txt").write_text(_list(TRUE[:5]))
    with caplog.at_level(logging.INFO):
        assert _labels(root) == TRUE[:5]
    assert f"val: labels from {root}/val.txt" in caplog.text
    counted = f"val: 5 images of 12 files in {root}/val; left out: 7 not in val.txt (ILSVRC2012_val_00000006.JPEG, "
    assert [record.getMessage().startswith(counted) for record in caplog.records if record.levelname == "WARNING"] == [
        True
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_list(TRUE).encode("utf-16-le"), "it has zero bytes"),
        ("ä.JPEG 3\n".encode("latin-1"), "is no text in UTF-8"),
        (b"a.JPEG 3\na.JPEG 4\n", r"val\.txt line 2: a\.JPEG is listed twice, as class 3 and 4"),
    ],
)
def test_an_unreadable_list_is_reported_in_one_line(content: bytes, message: str, root: Path) -> None:
    (root / "val.txt").write_bytes(content)
    with pytest.raises(BnrecalError, match=message) as caught:
        imagenet(root).size("val")
    assert "\n" not in str(caught.value)


def test_two_files_of_one_name_are_refused(root: Path) -> None:
    picture(1, 40, 40).save(root / "val" / f"{_stem(3)}.png")
    (root / "val.txt").write_text(_list(TRUE))
    with pytest.raises(BnrecalError, match="two files are named ILSVRC2012_val_00000003"):
        imagenet(root).size("val")


def _kaggle(labels: list[int]) -> str:
    rows = [f"{_stem(i)},{wnids()[label]} 1 2 3 4 \n" for i, label in enumerate(labels, start=1)]
    return "ImageId,PredictionString\n" + "".join(rows)


def test_kaggles_table_is_found_where_kaggle_puts_it(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("kaggle")
    (top / "ILSVRC" / "Data").mkdir(parents=True)
    root.rename(top / "ILSVRC" / "Data" / "CLS-LOC")
    (top / KAGGLE).write_text(_kaggle(TRUE))
    assert _labels(top / "ILSVRC" / "Data" / "CLS-LOC") == TRUE
    with pytest.raises(BnrecalError, match=r"set data\.root=.*/ILSVRC/Data/CLS-LOC, as Kaggle packs"):
        imagenet(top)


def test_a_row_without_a_synset_is_named(root: Path) -> None:
    (root / KAGGLE).write_text(_kaggle(TRUE) + "ILSVRC2012_val_00000012,n00000000 1 2 3 4\n")
    with pytest.raises(BnrecalError, match=r"LOC_val_solution\.csv line 14: .* is not 'ImageId,wnid"):
        imagenet(root).size("val")


def test_images_that_kaggles_table_has_and_the_folder_lacks_are_counted(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / KAGGLE).write_text(_kaggle([*TRUE, 3, 4]))
    assert _labels(root) == TRUE
    assert f"val: 2 of 14 files in {root}/{KAGGLE} are not there (ILSVRC2012_val_00000013)" in caplog.text
