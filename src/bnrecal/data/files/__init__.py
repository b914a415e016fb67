"""Data sets whose images are files in folders."""
