"""Draws docs/glyphs.png: images of `data=glyphs` as the networks see them, sorted by nothing.

python scripts/draw_contact_sheet.py [docs/glyphs.png]
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from bnrecal.data.glyphs.atlas import CODE_POINTS, font_path
from bnrecal.data.glyphs.draw import SIDE, Difficulty, draw_block
from bnrecal.files import atomic_path

ROWS, COLUMNS, ZOOM, CAPTION = 8, 24, 2, 18
TILE = SIDE * ZOOM


def main(target: Path) -> None:
    images, labels = draw_block(0, "train", 0, Difficulty())
    large = images.repeat_interleave(ZOOM, 2).repeat_interleave(ZOOM, 3)
    sheet = Image.new("RGB", (COLUMNS * TILE, ROWS * (TILE + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(font_path("DejaVuSans")), 13)
    for position in range(ROWS * COLUMNS):
        left, top = position % COLUMNS * TILE, position // COLUMNS * (TILE + CAPTION)
        pixels = large[position].permute(1, 2, 0).contiguous()
        sheet.paste(Image.fromarray(pixels.to(torch.uint8).numpy()), (left, top))
        label = CODE_POINTS[int(labels[position])]
        pen.text((left + TILE / 2, top + TILE + CAPTION / 2), label, fill="black", font=font, anchor="mm")
    with atomic_path(target) as temporary:
        sheet.save(temporary, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "glyphs.png")
