"""Entropic transport for arrays of any library: the readable reference of every operation."""
