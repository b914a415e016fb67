"""Pruning with retraining."""
