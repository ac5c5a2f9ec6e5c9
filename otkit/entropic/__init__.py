"""The mathematics of entropic transport, readable, for arrays of any library: the reference of every operation."""
