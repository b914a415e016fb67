"""Collisions counted, devices checked, and the machine named."""
