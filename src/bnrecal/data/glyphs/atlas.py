"""The glyphs: every code point in every font of the matplotlib wheel that has it, drawn once."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

CELL = 48  # pixels a side of one atlas cell
CAP_HEIGHT = 24  # every font is scaled so that its H is this tall, pixels

LATIN = "23456789ABCDEFGHJKLMNOPQRSTUVWXYZabdefghmnqrt"
# Left out: what a change of size turns into another class (c, s, x), and twins of Latin letters.
OTHERS = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηλμξπσω" + "БДЖИЦЧШЫЭЮЯ" + "#%&@?$£¥§¶€Æ" + "∞∫√∇±"
CODE_POINTS = LATIN + OTHERS
"""One class each, in label order."""

FULL_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
LATIN_FONTS = ("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10")  # other code points there are other symbols


@dataclass(frozen=True)
class Atlas:
    """All glyph drawings, grouped by class.

    Attributes:
        cells: (glyphs, CELL, CELL) uint8 coverage, ink centred.
        first, count: (classes,) where a class's drawings start in `cells` and how many fonts it has.
    """

    cells: npt.NDArray[np.uint8]
    first: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]


def font_path(name: str) -> Path:
    """Where matplotlib keeps the font."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Draws every class in every font that covers it (one without the code point would give an empty box)."""
    fonts = [_Face(name, CODE_POINTS) for name in FULL_FONTS] + [_Face(name, LATIN) for name in LATIN_FONTS]
    cells: list[npt.NDArray[np.uint8]] = []
    counts: list[int] = []
    for character in CODE_POINTS:
        drawn = [font.draw(character) for font in fonts if font.covers(character)]
        cells += drawn
        counts.append(len(drawn))
    count = np.asarray(counts, dtype=np.int64)
    return Atlas(np.stack(cells), np.cumsum(count) - count, count)


class _Face:
    """One font at the size that makes its capital H CAP_HEIGHT pixels tall."""

    def __init__(self, name: str, allowed: str) -> None:
        path = font_path(name)
        self._covered = set(allowed) & {chr(code) for code in FT2Font(str(path)).get_charmap()}
        probe = ImageFont.truetype(str(path), 100, layout_engine=ImageFont.Layout.BASIC)
        _, top, _, bottom = probe.getbbox("H")
        size = round(100 * CAP_HEIGHT / (bottom - top))
        self._font = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)

    def covers(self, character: str) -> bool:
        return character in self._covered

    def draw(self, character: str) -> npt.NDArray[np.uint8]:
        left, top, right, bottom = self._font.getbbox(character)
        corner = ((CELL - left - right) / 2, (CELL - top - bottom) / 2)
        image = Image.new("L", (CELL, CELL))
        ImageDraw.Draw(image).text(corner, character, fill=255, font=self._font)
        return np.asarray(image)
