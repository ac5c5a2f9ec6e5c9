"""The network simplex from a warm start: the solver and its basis."""
