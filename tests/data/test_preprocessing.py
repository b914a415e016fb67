"""Preprocessing against torchvision's own transforms and against OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from helpers.imagenet_tree import picture
from PIL import Image
from torchvision.models import get_model_weights
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor

from bnrecal.data.preprocessing import CPU, Interpolation, Normalization, Preprocessing

SIZES = [(500, 375), (333, 500), (341, 256), (256, 256), (227, 227), (100, 60), (1024, 301)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "googlenet", "densenet121"])
def test_it_is_torchvisions_own_transform(name: str, size: tuple[int, int]) -> None:
    image = picture(1, *size)
    theirs = get_model_weights(name)["IMAGENET1K_V1"].transforms()
    assert torch.equal(Preprocessing().evaluation(image), theirs(image))


@pytest.mark.parametrize("size", SIZES)
def test_bicubic_is_torchvisions(size: tuple[int, int]) -> None:
    image = picture(1, *size)
    theirs = get_model_weights("efficientnet_b0")["IMAGENET1K_V1"].transforms()
    assert torch.equal(Preprocessing(interpolation="bicubic").evaluation(image), theirs(image))


def _mlperf(image: Image.Image, interpolation: int) -> np.ndarray:
    """The shorter side to 256 and the central 224x224, places rounded down."""
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    wide, high = (256, int(256 * height / width)) if height > width else (int(256 * width / height), 256)
    resized = cv2.resize(pixels, (wide, high), interpolation=interpolation)
    top = int((high - 224) / 2)
    left = int((wide - 224) / 2)
    cropped: np.ndarray = resized[top : top + 224, left : left + 224].transpose(2, 0, 1)
    return cropped


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("interpolation", "flag"), [("area", cv2.INTER_AREA), ("opencv_bilinear", cv2.INTER_LINEAR)])
def test_mlperfs_is_opencvs(interpolation: Interpolation, flag: int, size: tuple[int, int]) -> None:
    image = picture(1, *size)
    levels = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation).evaluation(image)
    assert torch.equal((255 * levels).round().to(torch.uint8), torch.from_numpy(_mlperf(image, flag)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area", "opencv_bilinear"])
def test_shape_and_range(interpolation: Interpolation) -> None:
    preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation=interpolation)
    for size in SIZES:
        tensor = preprocessing.evaluation(picture(0, *size))
        assert tensor.shape == (3, 224, 224)
        assert tensor.dtype == torch.float32
        assert -1 <= tensor.min() <= tensor.max() <= 1


def test_mlperf_units() -> None:
    grey = Image.new("RGB", (300, 300), (200, 100, 0))
    mean = (123.68 / 255, 116.78 / 255, 103.94 / 255)
    levels = Preprocessing(mean=mean, std=(1 / 255,) * 3, interpolation="area").evaluation(grey)
    expected = torch.tensor([200 - 123.68, 100 - 116.78, -103.94])
    assert torch.allclose(levels, expected[:, None, None].expand_as(levels), atol=1e-4)


def test_without_resize_and_crop_an_image_keeps_its_size() -> None:
    image = picture(2, 40, 30)
    whole = Preprocessing(resize=None, crop=None, mean=(0, 0, 0), std=(1, 1, 1)).evaluation(image)
    assert torch.equal(whole, ToTensor()(image))
    for interpolation in ("area", "opencv_bilinear"):
        resized = Preprocessing(resize=15, crop=None, interpolation=interpolation).evaluation(image)
        assert resized.shape == (3, 15, 20)


@pytest.mark.parametrize("interpolation", ["area", "opencv_bilinear"])
def test_an_image_smaller_than_the_crop_is_padded(interpolation: Interpolation) -> None:
    tensor = Preprocessing(resize=100, crop=224, interpolation=interpolation).evaluation(picture(2, 120, 90))
    assert tensor.shape == (3, 224, 224)


def test_the_augmentation_is_torchvisions_under_the_same_seed() -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    theirs = Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor(), Normalize(mean, std)])
    for seed in range(12):
        image = picture(seed, 300, 260)
        torch.manual_seed(seed)
        ours = Normalization(Preprocessing(), CPU)(Preprocessing().random_crop(image))
        torch.manual_seed(seed)
        assert torch.equal(ours, theirs(image))


def test_the_augmentation_keeps_the_image_size_where_none_is_given() -> None:
    assert Preprocessing(resize=None, crop=None).random_crop(picture(0, 40, 30)).shape == (30, 40, 3)
