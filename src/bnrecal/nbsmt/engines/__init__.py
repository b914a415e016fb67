"""Engines: what carries out a threaded convolution on a device."""
