"""Engines for processors: dense 8-bit convolutions, sparse weights, depthwise layers."""
