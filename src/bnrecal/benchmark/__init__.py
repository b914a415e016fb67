"""Speed of the engine, as a ratio to float32 PyTorch in the same process."""
