"""The experiment: load, calibrate, quantize, thread, recalibrate, evaluate."""
