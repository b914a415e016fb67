"""bnrecal: post-training BatchNorm recalibration under NB-SMT (Shomron & Weiser, 2020)."""

__version__ = "0.1.0"
