"""Image files of every kind, against Pillow, and every way to be unreadable."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers.imagenet_tree import picture
from PIL import Image

from bnrecal.data.files.decode import decode
from bnrecal.errors import BnrecalError


def _saved(path: Path, image: Image.Image, kind: str, **options: object) -> str:
    image.save(path, kind, **options)
    return str(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_pillows(mode: str, progressive: bool, tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.JPEG", picture(1, 97, 61).convert(mode), "JPEG", progressive=progressive)
    decoded = decode(path)
    assert decoded.mode == "RGB"
    assert (np.asarray(decoded) == np.asarray(Image.open(path).convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_the_content_decides_the_format(mode: str, tmp_path: Path) -> None:
    image = picture(1, 40, 30)
    if mode == "I;16":
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40))
    else:
        image = image.quantize(16) if mode == "P" else image.convert(mode)
    decoded = decode(_saved(tmp_path / "png named.JPEG", image, "PNG"))
    assert (decoded.mode, decoded.size) == ("RGB", (40, 30))


def test_a_camera_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = _saved(tmp_path / "a.jpg", picture(1, 40, 30), "JPEG", exif=exif)
    assert decode(path).size == (40, 30)


def _jpeg() -> bytes:
    buffer = BytesIO()
    picture(1).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", _jpeg()[:-2], _jpeg()[:-2000], _jpeg()[:20], b"\xff\xd8\xff" + bytes(500)],
    ids=["empty", "text", "no end", "truncated", "header", "zeros"],
)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "n01440764_7.JPEG"
    path.write_bytes(content)
    with pytest.raises(BnrecalError, match=r"n01440764_7\.JPEG cannot be read as an image: ."):
        decode(str(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.JPEG", tmp_path):
        with pytest.raises(BnrecalError, match="cannot be read as an image"):
            decode(str(path))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = _saved(tmp_path / "bomb.png", Image.new("1", (12_000, 8_000)), "PNG")
    with pytest.raises(BnrecalError, match=r"bomb\.png is too large"):
        decode(path)
