"""Optimal transport between many points, from coarse cells to fine ones."""
