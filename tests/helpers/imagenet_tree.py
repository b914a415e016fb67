"""A miniature ImageNet on disk: real image files of every awkward kind, for the tests that need a folder."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

# label -> synset id, some of both ends of the list; the other classes are missing
CLASSES = {
    0: "n01440764",
    1: "n01443537",
    207: "n02099601",
    281: "n02123045",
    388: "n02510455",
    950: "n07747607",
    998: "n13133613",
    999: "n15075141",
}


@dataclass(frozen=True)
class Tree:
    """What was made.

    Attributes:
        root: the folder with train/ and val/.
        train, val: how many labelled image files each split has, a corrupt one included.
        corrupt: the truncated file in val/, if one was asked for.
    """

    root: Path
    train: int
    val: int
    corrupt: Path | None


def picture(seed: int, width: int = 320, height: int = 260) -> Image.Image:
    """Smooth colours with some texture: like a photograph to a codec, and different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + rng.integers(-12, 13, smooth.shape, dtype=np.int16)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def make_imagenet_tree(folder: Path, *, per_class: int = 5, corrupt: bool = False) -> Tree:
    """Writes train/<wnid>/ and val/<wnid>/ of eight classes below `folder`, with `per_class` images each or more.

    Among the validation images are a greyscale, a CMYK and a huge JPEG, a PNG and a palette image named .JPEG. Both
    splits have an empty class folder, a folder that is no class, a hidden file and a text file, none of which count.

    Args:
        corrupt: also write a truncated JPEG into val/.
    """
    for split, first in (("train", 0), ("val", 10_000)):
        for label, wnid in CLASSES.items():
            (folder / split / wnid).mkdir(parents=True)
            for number in range(per_class):
                seed = first + label * 100 + number
                path = folder / split / wnid / f"{_stem(split, wnid, seed)}.JPEG"
                picture(seed, 280 + number * 13, 300 - number * 7).save(path, "JPEG", quality=85)
        _add_what_does_not_count(folder / split)
    awkward = _add_awkward(folder / "val")
    broken = folder / "val" / CLASSES[999] / "ILSVRC2012_val_00049999.JPEG" if corrupt else None
    if broken is not None:
        broken.write_bytes(_jpeg(picture(1))[:-3000])
    count = per_class * len(CLASSES)
    return Tree(folder, count, count + awkward + corrupt, broken)


def _stem(split: str, wnid: str, seed: int) -> str:
    return f"{wnid}_{seed}" if split == "train" else f"ILSVRC2012_val_{seed % 100_000:08d}"


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def _add_what_does_not_count(split: Path) -> None:
    (split / "n02119789").mkdir()  # a class without images
    (split / "thumbnails").mkdir()
    picture(2).save(split / "thumbnails" / "a.jpg")
    (split / CLASSES[0] / "._hidden.JPEG").write_bytes(b"a Mac was here")
    (split / CLASSES[0] / "readme.txt").write_text("not an image")


def _add_awkward(val: Path) -> int:
    folder = val / CLASSES[207]
    picture(3).convert("L").save(folder / "ILSVRC2012_val_00040001.JPEG", "JPEG")
    picture(4).convert("CMYK").save(folder / "ILSVRC2012_val_00040002.JPEG", "JPEG")
    picture(5).save(folder / "ILSVRC2012_val_00040003.JPEG", "PNG")
    picture(6).quantize(64).save(folder / "ILSVRC2012_val_00040004.JPEG", "PNG")
    picture(7).resize((4200, 2800)).save(folder / "ILSVRC2012_val_00040005.JPEG", "JPEG", quality=40)
    return 5
