"""Layers to slow down: the highest-error order, random orders, and a measured search."""
