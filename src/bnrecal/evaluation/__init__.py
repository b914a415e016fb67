"""Accuracy image by image, and the significance of differences."""
