"""NB-SMT (non-blocking simultaneous multithreading): convolutions whose threads share 8-bit multipliers."""
