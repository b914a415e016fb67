"""The OpenCV-style resizes against arrays made by OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrecal.data.opencv_resize import Taps, area_taps, area_taps_enlarging, linear_taps, resample

SIZES = st.integers(3, 90)


def _image(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _distance(ours: np.ndarray, theirs: np.ndarray) -> int:
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES)
def test_linear_is_opencvs_within_one_grey_level(height: int, width: int, high: int, wide: int) -> None:
    image = _image(height, width)
    ours = resample(image, linear_taps(height, high), linear_taps(width, wide))
    assert _distance(ours, cv2.resize(image, (wide, high), interpolation=cv2.INTER_LINEAR)) <= 1


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES)
def test_area_is_opencvs_within_one_grey_level(height: int, width: int, high: int, wide: int) -> None:
    image = _image(height, width)
    taps = area_taps if height >= high and width >= wide else area_taps_enlarging
    ours = resample(image, taps(height, high), taps(width, wide))
    assert _distance(ours, cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)) <= 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (256, 341), (512, 512), (1200, 257)])
def test_the_usual_photograph_sizes(height: int, width: int) -> None:
    image = _image(height, width)
    scale = 256 / min(height, width)
    high, wide = int(height * scale), int(width * scale)
    ours = resample(image, area_taps(height, high), area_taps(width, wide))
    assert _distance(ours, cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)) <= 1


@pytest.mark.parametrize("taps", [linear_taps, area_taps, area_taps_enlarging])
def test_same_size_changes_nothing(taps) -> None:  # type: ignore[no-untyped-def]
    image = _image(17, 23)
    assert (resample(image, taps(17, 17), taps(23, 23)) == image).all()


def test_a_window_is_a_crop_of_the_whole() -> None:
    image = _image(50, 40)
    rows, columns = linear_taps(50, 30), linear_taps(40, 24)
    whole = resample(image, rows, columns)
    assert isinstance(rows, Taps)
    assert (resample(image, rows.window(4, 10), columns.window(3, 8)) == whole[4:14, 3:11]).all()
