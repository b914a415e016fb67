"""Float networks and how each wants its images."""

from bnrecal.models.loading import load_model

__all__ = ["load_model"]
