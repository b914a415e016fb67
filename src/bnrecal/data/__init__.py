"""Data sets: the embedded glyphs, ImageNet, Imagenette, any image folder."""
