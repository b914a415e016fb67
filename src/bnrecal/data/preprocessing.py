"""From a decoded photograph to a network's input."""

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

Interpolation = Literal["bilinear", "bicubic", "area", "opencv_bilinear"]
_OPENCV = ("area", "opencv_bilinear")


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that a network wants.

    Attributes:
        resize: length of the shorter side before cropping, pixels; None keeps the image's own size.
        crop: side of the central crop, pixels; None takes the whole image.
        mean, std: per channel in units of 0..1; the input is (x / 255 - mean) / std for x in 0..255.
        interpolation: "bilinear" and "bicubic" as torchvision on PIL images (antialiased), "area" and
            "opencv_bilinear" as OpenCV's INTER_AREA and INTER_LINEAR (the MLPerf reference).
    """

    resize: int | None = 256
    crop: int | None = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"

    def __str__(self) -> str:
        size = "own size" if self.resize is None else f"shorter side {self.resize} ({self.interpolation})"
        crop = "no crop" if self.crop is None else f"central {self.crop} x {self.crop}"
        mean = ", ".join(f"{value:.4g}" for value in self.mean)
        std = ", ".join(f"{value:.4g}" for value in self.std)
        return f"{size}, {crop}, mean [{mean}], std [{std}]"

    def evaluation(self, image: Image.Image) -> Tensor:
        """An RGB image as float32 (3, H, W): shorter side to `resize`, central crop, normalised.

        For "bilinear" and "bicubic" it equals torchvision's own weight transforms pixel for pixel; the OpenCV
        ones follow MLPerf's reference, which also rounds the crop's place down where torchvision rounds it.
        An image smaller than the crop is padded with black, as torchvision does.
        """
        if self.interpolation in _OPENCV and self.resize is not None:
            return self._normalised(self._opencv(image, self.resize))
        if self.resize is not None:
            image = F.resize(image, [self.resize], interpolation=self._pil_filter())
        if self.crop is not None:
            image = F.center_crop(image, [self.crop, self.crop])
        return self._normalised(image)

    def augmented(self, image: Image.Image) -> Tensor:
        """An RGB image as a training input, float32 (3, crop, crop): random crop and flip, normalised.

        The area (8-100 %), aspect ratio (3/4..4/3) and flip are drawn from the global torch generator, in the
        order of torchvision's RandomResizedCrop and RandomHorizontalFlip. The OpenCV interpolations take
        "bilinear" here: the authors recalibrated every network through the same augmentation.
        """
        side = self.crop or self.resize
        size = [side, side] if side else [image.height, image.width]
        top, left, height, width = RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
        image = F.resized_crop(image, top, left, height, width, size, self._pil_filter())
        if torch.rand(1).item() < 0.5:
            image = F.hflip(image)
        return self._normalised(image)

    def _pil_filter(self) -> InterpolationMode:
        return InterpolationMode.BICUBIC if self.interpolation == "bicubic" else InterpolationMode.BILINEAR

    def _normalised(self, image: Image.Image) -> Tensor:
        pixels = F.convert_image_dtype(F.pil_to_tensor(image), torch.float32)
        return cast(Tensor, F.normalize(pixels, list(self.mean), list(self.std), inplace=True))

    def _opencv(self, image: Image.Image, resize: int) -> Image.Image:
        """The image resized by OpenCV, sides rounded down, and its central crop."""
        shorter = min(image.height, image.width)
        height = int(resize * image.height / shorter)
        width = int(resize * image.width / shorter)
        resized = Image.fromarray(_opencv_resize(np.asarray(image), (width, height), self.interpolation))
        crop = self.crop
        if crop is None:
            return resized
        if crop > min(height, width):
            return cast(Image.Image, F.center_crop(resized, [crop, crop]))  # pads
        top = (height - crop) // 2
        left = (width - crop) // 2
        return resized.crop((left, top, left + crop, top + crop))


def _opencv_resize(pixels: NDArray[np.uint8], size: tuple[int, int], interpolation: Interpolation) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as (size[1], size[0], 3)."""
    import cv2  # here: only the MLPerf networks need it

    cv2.setNumThreads(0)  # images are loaded side by side already, and OpenCV's threads do not survive a fork
    flag = cv2.INTER_AREA if interpolation == "area" else cv2.INTER_LINEAR
    return cast(NDArray[np.uint8], cv2.resize(pixels, size, interpolation=flag))
