"""From a decoded photograph to a network's input."""

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from bnrecal.data.opencv_resize import area_taps, area_taps_enlarging, linear_taps, resample

Interpolation = Literal["bilinear", "bicubic", "area", "opencv_bilinear"]
_OPENCV = ("area", "opencv_bilinear")


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images.

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
        """Resized as OpenCV would; only the rows and columns that the crop keeps are computed."""
        shorter = min(image.height, image.width)
        height, width = (int(resize * side / shorter) for side in (image.height, image.width))
        if self.interpolation == "opencv_bilinear":
            taps = linear_taps
        elif image.height >= height and image.width >= width:
            taps = area_taps
        else:
            taps = area_taps_enlarging
        rows, columns = taps(image.height, height), taps(image.width, width)
        crop = self.crop
        if crop is not None and crop <= min(height, width):
            rows, columns = rows.window((height - crop) // 2, crop), columns.window((width - crop) // 2, crop)
        resized = Image.fromarray(resample(np.asarray(image), rows, columns))
        return resized if crop is None else F.center_crop(resized, [crop, crop])
