"""Which images a network gets right, and what a difference is worth."""
