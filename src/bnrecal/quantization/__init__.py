"""From a float network to a quantized, threaded one."""
