"""From a decoded photograph to a network's input. (Owned by the data side: transforms are added here.)"""

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic", "area", "opencv_bilinear"]


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
