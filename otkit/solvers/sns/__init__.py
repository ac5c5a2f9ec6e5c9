"""Sinkhorn-Newton-Sparse: the solver, the Newton step of the paper, points of the dual, and the cost model."""
