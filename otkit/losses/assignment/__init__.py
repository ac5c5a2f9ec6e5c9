"""Balanced assignments of samples to prototypes, and the losses that predict them."""
