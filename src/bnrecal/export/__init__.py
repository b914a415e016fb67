"""A quantized, threaded network as files that a hardware team can use (docs/hardware.md describes them)."""
