"""The golden vectors that an export writes."""

from dataclasses import dataclass

from bnrecal.config import setting
from bnrecal.errors import BnrecalError


@dataclass
class VectorsConfig:
    """Golden vectors: what goes into a processing element, and what comes out."""

    outputs: int = setting(16, "outputs of each layer that get vectors, at random places")
    layers: list[str] = setting(["*"], "layers that get vectors, by name or glob")


def check_vectors(vectors: VectorsConfig) -> None:
    """Raise BnrecalError at the first value out of range."""
    if vectors.outputs < 1:
        raise BnrecalError(f"vectors.outputs={vectors.outputs}: must be at least 1")
