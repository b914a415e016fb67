"""From a decoded photograph to a network's input."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from torchvision.transforms.functional import InterpolationMode

# torchvision is imported where an image is cropped: two seconds that the embedded data set does without.
Interpolation = Literal["bilinear", "bicubic", "area", "opencv_bilinear"]
_OPENCV = ("area", "opencv_bilinear")
CPU = torch.device("cpu")


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
        """An RGB image as float32 (3, H, W): its `central_crop`, normalised."""
        return Normalization(self, CPU)(self.central_crop(image))

    def central_crop(self, image: Image.Image) -> Tensor:
        """An RGB image as uint8 (H, W, 3): shorter side to `resize`, central crop.

        For "bilinear" and "bicubic" it equals torchvision's own weight transforms pixel for pixel; the OpenCV
        ones follow MLPerf's reference, which also rounds the crop's place down where torchvision rounds it.
        An image smaller than the crop is padded with black, as torchvision does.
        """
        from torchvision.transforms import functional as F

        if self.interpolation in _OPENCV and self.resize is not None:
            return _pixels(self._opencv(image, self.resize))
        if self.resize is not None:
            image = F.resize(image, [self.resize], interpolation=self._pil_filter())
        if self.crop is not None:
            image = F.center_crop(image, [self.crop, self.crop])
        return _pixels(image)

    def random_crop(self, image: Image.Image) -> Tensor:
        """An RGB image as uint8 (crop, crop, 3): random crop and flip.

        The area (8-100 %), aspect ratio (3/4..4/3) and flip are drawn from the global torch generator, in the
        order of torchvision's RandomResizedCrop and RandomHorizontalFlip. The OpenCV interpolations take
        "bilinear" here: the authors recalibrated every network through the same augmentation.
        """
        from torchvision.transforms import RandomResizedCrop
        from torchvision.transforms import functional as F

        side = self.crop or self.resize
        size = [side, side] if side else [image.height, image.width]
        top, left, height, width = RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
        image = F.resized_crop(image, top, left, height, width, size, self._pil_filter())
        if torch.rand(1).item() < 0.5:
            image = F.hflip(image)
        return _pixels(image)

    def _pil_filter(self) -> "InterpolationMode":
        from torchvision.transforms.functional import InterpolationMode

        return InterpolationMode.BICUBIC if self.interpolation == "bicubic" else InterpolationMode.BILINEAR

    def _opencv(self, image: Image.Image, resize: int) -> Image.Image:
        """The image resized by OpenCV, sides rounded down, and its central crop."""
        from torchvision.transforms import functional as F

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


class Normalization:
    """The last step of a preprocessing, from pixels to network inputs: (x / 255 - mean) / std in float32.

    Every operand is a tensor on the device, since CUDA multiplies by the reciprocal of a plain number: so each device
    gives the bits of torchvision's `normalize` on the CPU.

    Args:
        device: of the pixels, and of the inputs.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self.preprocessing = preprocessing
        self.device = device
        self._rows: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 (..., H, W, 3), as float32 (..., 3, H, W); in memory the channels stay last."""
        height, width, channels = pixels.shape[-3:]
        rows = pixels.reshape(-1, height, width * channels)
        inputs = torch.empty(rows.shape, dtype=torch.float32, device=self.device)
        most, mean, std = self._constants(width)
        # On a CPU image by image: one fits its cache.
        step = 1 if self.device.type == "cpu" else max(1, len(rows))
        for some, into in zip(torch.split(rows, step), torch.split(inputs, step), strict=True):
            into.copy_(some).div_(most).sub_(mean).div_(std)
        return inputs.view(pixels.shape).movedim(-1, -3)

    def _constants(self, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """255, mean and std of each value in a row of pixels; copied to the device once, since a copy waits for it."""
        if width not in self._rows:
            most = torch.full((3 * width,), 255.0, device=self.device)
            mean = torch.tensor(self.preprocessing.mean, device=self.device).repeat(width)
            std = torch.tensor(self.preprocessing.std, device=self.device).repeat(width)
            self._rows[width] = (most, mean, std)
        return self._rows[width]


def _pixels(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (H, W, 3)."""
    return torch.from_numpy(np.array(image))


def _opencv_resize(pixels: NDArray[np.uint8], size: tuple[int, int], interpolation: Interpolation) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) as (size[1], size[0], 3)."""
    import cv2  # here: only the MLPerf networks need it

    cv2.setNumThreads(0)  # images are loaded side by side already, and OpenCV's threads do not survive a fork
    flag = cv2.INTER_AREA if interpolation == "area" else cv2.INTER_LINEAR
    return cast(NDArray[np.uint8], cv2.resize(pixels, size, interpolation=flag))
