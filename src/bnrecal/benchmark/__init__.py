"""How fast the engine is, as a ratio to float32 PyTorch in the same run."""
