"""The embedded data set of drawn glyphs."""
