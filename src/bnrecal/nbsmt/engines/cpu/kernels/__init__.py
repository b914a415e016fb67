"""All that numba compiles for processors."""
