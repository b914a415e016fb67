"""Parts that every report uses: how figures look, how pages are written, how tables are printed."""
