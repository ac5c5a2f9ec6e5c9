"""Exact optima: time, pivots and memory."""

import numpy as np

import otkit

from .problems import costs


class Exact:
    """Optimal vertices, the largest cost being 1."""

    param_names = ["problem", "n"]
    params = [["uniform costs", "2-D cloud", "fields, L1"], [256, 1024, 4096]]
    timeout = 300

    def setup(self, problem, n):
        self.C, self.a, self.b = costs(problem, n)

    def time_solve(self, problem, n):
        otkit.solve(self.C, self.a, self.b).plan_sparse()

    def track_pivots(self, problem, n):
        result = otkit.solve(self.C, self.a, self.b)
        return result.n_iter - sum(stage.n_iter for stage in result.stages)

    def peakmem_solve(self, problem, n):
        otkit.solve(self.C, self.a, self.b).plan_sparse()


class Partial:
    """Partial transport of a part of the mass, exact and with a regularisation, beside POT's exact one."""

    param_names = ["n", "mass"]
    params = [[30, 300, 1000], [0.3, 0.8]]
    timeout = 300

    def setup(self, n, mass):
        self.C, self.a, self.b = costs("2-D cloud", n)
        self.time_exact(n, mass)

    def time_exact(self, n, mass):
        otkit.solve(self.C, self.a, self.b, mass=mass).plan_sparse()

    def time_entropic(self, n, mass):
        otkit.solve(self.C, self.a, self.b, mass=mass, reg=1e-2).marginals  # noqa: B018

    def time_pot(self, n, mass):
        import ot

        ot.partial.partial_wasserstein(self.a, self.b, self.C, m=mass)


class Line:
    """Points on a line, one pair and a batch of many small ones."""

    param_names = ["items", "n"]
    params = [[1, 200], [50, 1000, 100_000]]

    def setup(self, items, n):
        if items * n > 10**6:
            raise NotImplementedError("too large")
        self.x, self.y = np.random.default_rng(0).random((2, items, n, 1))
        self.time_wasserstein(items, n)

    def time_wasserstein(self, items, n):
        otkit.wasserstein(self.x, self.y, p=1)


class Small:
    """Exact optima of small problems, one or many, from arrays to the value: Python and one compiled pass."""

    param_names = ["items", "n"]
    params = [[1, 500], [5, 20, 50, 200]]

    def setup(self, items, n):
        if items * n > 25_000:
            raise NotImplementedError("too large")
        rng = np.random.default_rng(0)
        self.x, self.y = rng.normal(size=(2, items, n, 2))
        self.C = ((self.x[:, :, None] - self.y[:, None]) ** 2).sum(-1)
        self.a, self.b = rng.dirichlet(np.ones(n), (2, items))
        if items == 1:
            self.x, self.y, self.C, self.a, self.b = (v[0] for v in (self.x, self.y, self.C, self.a, self.b))
        self.time_value(items, n)
        self.time_distance(items, n)

    def time_value(self, items, n):
        return otkit.solve(self.C, self.a, self.b).value

    def time_distance(self, items, n):
        return otkit.wasserstein(self.x, self.y, self.a, self.b).distance
