"""Data sets: the embedded glyphs, ImageNet, Imagenette, any image folder."""

from pathlib import Path

from bnrecal.config import DataConfig
from bnrecal.data.base import ImageSource
from bnrecal.errors import BnrecalError

DATASETS = ("glyphs", "imagenet", "imagenette", "imagefolder")


def build_source(config: DataConfig) -> ImageSource:
    """The data set that `data.name` asks for. Its content follows no seed: seeds choose images to calibrate on.

    Raises:
        BnrecalError: if the name is unknown, or the set's folder is missing or not laid out as the set's.
    """
    if config.name == "glyphs":
        from bnrecal.data.glyphs.source import VAL_IMAGES, GlyphSource

        return GlyphSource(val_images=max(VAL_IMAGES, config.val_images or 0))  # as many as asked can be drawn
    if config.name == "imagenet":
        from bnrecal.data.files.imagenet import imagenet

        return imagenet(_root(config), skip_corrupt=config.skip_corrupt)
    if config.name == "imagenette":
        from bnrecal.data.files.imagenette import imagenette

        root = None if config.root is None else Path(config.root).expanduser()
        return imagenette(root, download=config.download, skip_corrupt=config.skip_corrupt)
    if config.name == "imagefolder":
        from bnrecal.data.files.imagefolder import imagefolder

        return imagefolder(_root(config), skip_corrupt=config.skip_corrupt)
    raise BnrecalError(f"data={config.name}: choose one of {', '.join(DATASETS)}")


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise BnrecalError(f"data={config.name} needs data.root=PATH, the folder that holds train/ and val/")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise BnrecalError(f"data.root={config.root} is not a folder")
    return root
