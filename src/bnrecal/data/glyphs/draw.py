"""From (seed, split, index) to an image: glyphs warped into a scene of chosen contrast, 32x32 RGB.

Images are drawn in blocks of two of every class. A block has a random stream of its own, keyed by the seed,
the split and the block's number, and is always drawn whole: so an image depends on its own index alone, never
on which others were asked for, and every block holds every class. Pixels are made with additions,
multiplications and bilinear sampling only, which do not depend on the number of threads.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bnrecal.data.glyphs.atlas import CAP_HEIGHT, CELL, CODE_POINTS, load_atlas

SIDE = 32  # pixels
CLASSES = len(CODE_POINTS)
BLOCK = 2 * CLASSES  # images drawn together
VERSION = 1  # of the drawing below: raise it with every change that alters a pixel

DrawSplit = Literal["train", "val", "dev"]
_SPLIT_KEY: dict[DrawSplit, int] = {"train": 0, "val": 1, "dev": 2}

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difficulty:
    """The difficulty of the task; one setting for every model (docs/glyphs.md says how it was chosen).

    Attributes:
        contrast: log-uniform range of the factor on everything but the mean colour and the noise.
        noise: standard deviation of the pixel noise, uniform from 0, in units of the full 0..1 range.
        cap_height: uniform range of the height of a capital letter, pixels.
        rotation: largest angle, degrees, either way.
        shear: largest horizontal shear, either way.
        shift: largest displacement of the glyph's centre, pixels, either way.
        distractors: how many other glyphs lie behind, mostly beside the labelled one.
        distractor_strength: largest amplitude of those, where the labelled glyph has 0.5 to 1.
        shading: largest amplitude of the background's gradient.
    """

    contrast: tuple[float, float] = (0.25, 1.0)
    noise: float = 0.02
    cap_height: tuple[float, float] = (13.0, 22.0)
    rotation: float = 15.0
    shear: float = 0.2
    shift: float = 3.0
    distractors: int = 3
    distractor_strength: float = 0.8
    shading: float = 0.4


def draw_block(seed: int, split: DrawSplit, block: int, difficulty: Difficulty) -> tuple[Tensor, Tensor]:
    """Block number `block` of a split: images (BLOCK, 3, SIDE, SIDE) uint8 and labels (BLOCK,) int64."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _SPLIT_KEY[split], block])))
    labels = rng.permutation(BLOCK) % CLASSES
    scene = _background(rng, difficulty)
    for _ in range(difficulty.distractors):
        others = rng.integers(CLASSES, size=BLOCK)
        strength = rng.uniform(0.2, 1.0, BLOCK) * difficulty.distractor_strength
        offset = _around_the_edge(rng)
        scene = _paint(scene, _glyphs(rng, others, offset, difficulty), _colours(rng, strength))
    offset = rng.uniform(-difficulty.shift, difficulty.shift, (BLOCK, 2))
    ink = _glyphs(rng, labels, offset, difficulty)
    scene = _paint(scene, ink, _colours(rng, rng.uniform(0.5, 1.0, BLOCK)))
    return _expose(rng, scene, difficulty), torch.from_numpy(labels)


def _background(rng: np.random.Generator, difficulty: Difficulty) -> Tensor:
    """Shading around zero, a linear gradient per colour channel: (BLOCK, 3, SIDE, SIDE)."""
    axis = torch.linspace(-0.5, 0.5, SIDE)
    common = rng.uniform(-1, 1, (BLOCK, 1, 2))
    slopes = (0.7 * common + 0.3 * rng.uniform(-1, 1, (BLOCK, 3, 2))) * difficulty.shading
    slope = torch.from_numpy(slopes).float()
    return slope[:, :, 0, None, None] * axis + slope[:, :, 1, None, None] * axis[:, None]


def _around_the_edge(rng: np.random.Generator) -> Array:
    """Displacements that put a glyph's centre 9 to 16 pixels off on one axis and anywhere on the other."""
    far = rng.uniform(9, 16, BLOCK) * rng.choice([-1.0, 1.0], BLOCK)
    anywhere = rng.uniform(-16, 16, BLOCK)
    swap = rng.random(BLOCK) < 0.5
    return np.stack([np.where(swap, far, anywhere), np.where(swap, anywhere, far)], axis=1)


def _colours(rng: np.random.Generator, strength: Array) -> Tensor:
    """Offsets from the background, lighter or darker, tinted: (BLOCK, 3)."""
    sign = rng.choice([-1.0, 1.0], BLOCK)
    tint = rng.uniform(0.3, 1.0, (BLOCK, 3))
    tint /= tint.max(axis=1, keepdims=True)
    return torch.from_numpy((sign * strength)[:, None] * tint).float()


def _paint(scene: Tensor, ink: Tensor, colour: Tensor) -> Tensor:
    """Covers the scene where there is ink (BLOCK, 1, SIDE, SIDE)."""
    return scene * (1 - ink) + colour[:, :, None, None] * ink


def _glyphs(rng: np.random.Generator, labels: npt.NDArray[np.int64], offset: Array, difficulty: Difficulty) -> Tensor:
    """Coverage 0..1 of one warped glyph per image, in a random font: (BLOCK, 1, SIDE, SIDE)."""
    atlas = load_atlas()
    font = (rng.random(BLOCK) * atlas.count[labels]).astype(np.int64)
    cells = torch.from_numpy(atlas.cells[atlas.first[labels] + font]).unsqueeze(1)
    angle = np.radians(rng.uniform(-difficulty.rotation, difficulty.rotation, BLOCK))
    shear = rng.uniform(-difficulty.shear, difficulty.shear, BLOCK)
    height = rng.uniform(*difficulty.cap_height, BLOCK)
    aspect = rng.uniform(0.85, 1.15, BLOCK)
    # Output pixel to atlas position: scale, unshear, unrotate; both in grid_sample's units of half a side.
    zoom = CAP_HEIGHT / height * SIDE / CELL
    cos = np.cos(angle)
    sin = np.sin(angle)
    matrix = np.empty((BLOCK, 2, 3))
    matrix[:, 0, 0] = zoom * aspect * (cos + shear * sin)
    matrix[:, 0, 1] = zoom * aspect * (shear * cos - sin)
    matrix[:, 1, 0] = zoom / aspect * sin
    matrix[:, 1, 1] = zoom / aspect * cos
    matrix[:, :, 2] = -np.einsum("nij,nj->ni", matrix[:, :, :2], offset / (SIDE / 2))
    grid = _affine_grid(torch.from_numpy(matrix).float())
    return F.grid_sample(cells.float(), grid, padding_mode="zeros", align_corners=False) * (1 / 255)


def _affine_grid(matrix: Tensor) -> Tensor:
    """Return F.affine_grid without its matrix product, whose rounding may vary: (BLOCK, SIDE, SIDE, 2)."""
    axis = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    x, y = axis[None, None, :, None], axis[None, :, None, None]
    row = matrix[:, None, None]
    return row[..., 0] * x + row[..., 1] * y + row[..., 2]


def _expose(rng: np.random.Generator, scene: Tensor, difficulty: Difficulty) -> Tensor:
    """Scene of amplitude about 1 to uint8, at a random contrast around a random mean colour, with noise."""
    contrast = np.exp(rng.uniform(np.log(difficulty.contrast[0]), np.log(difficulty.contrast[1]), BLOCK))
    mean = rng.uniform(0.35, 0.65, (BLOCK, 1)) + rng.uniform(-0.1, 0.1, (BLOCK, 3))
    sigma = rng.uniform(0, difficulty.noise, BLOCK)
    image = scene * torch.from_numpy(0.5 * contrast).float()[:, None, None, None]
    image = image + torch.from_numpy(mean).float()[:, :, None, None]
    noise = torch.from_numpy(rng.standard_normal((BLOCK, 3, SIDE, SIDE), dtype=np.float32))
    image = image + noise * torch.from_numpy(sigma).float()[:, None, None, None]
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
