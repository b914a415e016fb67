"""The golden vectors that an export writes."""

from dataclasses import dataclass

from bnrecal.config import setting


@dataclass
class VectorsConfig:
    """Golden vectors: what goes into a processing element, and what comes out."""

    outputs: int = setting(16, "outputs of each layer that get vectors, at random places", least=1)
    layers: list[str] = setting(["*"], "layers that get vectors, by name or glob")
