"""The `bnrecal` command with a few hundred glyphs, for caches that keep none: 40,000 take ten seconds to draw."""

import runpy
from functools import partialmethod

from bnrecal.data.glyphs.source import GlyphSource

if __name__ == "__main__":
    GlyphSource.__init__ = partialmethod(GlyphSource.__init__, train_images=400)  # type: ignore[assignment,method-assign]
    runpy.run_module("bnrecal", run_name="__main__", alter_sys=True)
