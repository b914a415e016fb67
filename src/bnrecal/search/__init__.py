"""Which layers to slow down: the highest-error order and a measured search."""
