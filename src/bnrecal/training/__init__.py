"""Pruning with retraining, and training of the networks that come with the package."""
