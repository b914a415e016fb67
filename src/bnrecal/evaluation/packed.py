"""Images that were right, packed as text: 50,000 are 8 KB of a JSON file, and tests over images stay possible."""

import base64

import numpy as np

from bnrecal.evaluation.accuracy import Bools


def pack(right: Bools) -> str:
    """Return bool (images,) as base64 of its bits, the first image in the highest bit."""
    return base64.b64encode(np.packbits(right).tobytes()).decode("ascii")


def unpack(text: str, images: int) -> Bools:
    """Return the bool (images,) that `pack` was given."""
    bits = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(bits, count=images).astype(bool)
