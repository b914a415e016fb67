"""Table 1: its columns, its numbers, and the files that show them."""
