"""Image files as RGB pictures, decoded by Pillow; files that are images, known by their first bytes."""

import warnings
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from bnrecal.errors import BnrecalError

_KNOWN = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # formats known by their first bytes beyond doubt


def decode(path: str) -> Image.Image:
    """The file as an RGB image; greyscale, palette, CMYK and transparent images are converted as Pillow does.

    The content decides the format, not the name. EXIF orientation is ignored, as by torchvision's data sets.

    Raises:
        BnrecalError: naming the path, if the file is missing, truncated, damaged, no image, or so large when
            decoded that Pillow takes it for a decompression bomb (above 89 million pixels).
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return decode_bytes(content, path)


def decode_bytes(content: bytes, title: str) -> Image.Image:
    """The content of an image file as `decode` gives it.

    Args:
        title: what it is of, for messages.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Broken EXIF, palettes with transparency and the like do not change the pixels.
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            return Image.open(BytesIO(content)).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BnrecalError(f"{title} is too large to be a photograph of the set: {error}") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, EOFError) as error:
        raise _unreadable(title, error) from error


def _unreadable(title: str, error: Exception) -> BnrecalError:
    reason = getattr(error, "strerror", None) or str(error).split("<_io")[0].strip() or type(error).__name__
    return BnrecalError(f"{title} cannot be read as an image: {reason}")


def is_image(path: str) -> bool:
    """Return whether the content is an image of a usual format, by its header; the pixels are not decoded.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(file, formats=_KNOWN).close()
        except Image.DecompressionBombError:
            return True  # and too large: reported when it is read
        except (SyntaxError, ValueError, EOFError):
            return False
        except OSError as error:
            if error.errno is not None:
                raise
            return False  # Pillow's own, as UnidentifiedImageError
    return True
