"""Policies: what is multiplied when threads collide."""
