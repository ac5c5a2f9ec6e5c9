"""Many points, by cells or by products of matrices: time, memory, pivots and the proved gap."""

import numpy as np

import otkit

KINDS = ("uniform square", "uniform cube", "Gaussians, 2-D", "Gaussians, 3-D", "clusters, 2-D")
HIGH = "Gaussians, 64-D"


def points(kind, n, seed=0):
    """Two clouds and their weights."""
    rng, d = np.random.default_rng(seed), 3 if "3" in kind or "cube" in kind else 2
    even = np.full(n, 1 / n)
    if kind == HIGH:
        spectrum = np.arange(1.0, 65) ** -0.5
        x, y = (rng.normal(size=(n, 64)) * spectrum * scale for scale in (1.0, 0.8))
        return x, y + np.eye(1, 64), even, even
    if kind.startswith("uniform"):
        return rng.random((n, d)), rng.random((n, d)), even, even
    if kind.startswith("Gaussians"):
        x = rng.normal(size=(n, d))
        return x, rng.normal(size=(n, d)) * np.linspace(0.5, 1.5, d) + np.r_[2.0, np.zeros(d - 1)], even, even

    def side():
        at, width, share = rng.random((30, d)), 10 ** rng.uniform(-3, -1, 30), rng.dirichlet(np.ones(30))
        of, w = rng.choice(30, n, p=share), rng.exponential(size=n)
        return at[of] + width[of, None] * rng.normal(size=(n, d)), w / w.sum()

    (x, a), (y, b) = side(), side()
    return x, y, a, b


class Large:
    """Exact optima, or intervals of 1 %, of squared distances."""

    param_names = ["problem", "n", "rtol"]
    params = [list(KINDS), [10_000, 100_000], [None, 1e-2]]
    timeout = 600

    def setup(self, problem, n, rtol):
        if rtol is None and n > 10_000 and problem.startswith("clusters"):
            raise NotImplementedError("exact clusters are not for every day")
        self.points, self.method = points(problem, n), otkit.Multiscale(rtol=rtol)
        otkit.solve_sample(*points(problem, 2000), method=self.method)  # compilation

    def time_solve(self, problem, n, rtol):
        otkit.solve_sample(*self.points, method=self.method)

    def peakmem_solve(self, problem, n, rtol):
        otkit.solve_sample(*self.points, method=self.method)

    def track_iterations(self, problem, n, rtol):
        return otkit.solve_sample(*self.points, method=self.method).n_iter

    def track_gap(self, problem, n, rtol):
        result = otkit.solve_sample(*self.points, method=self.method)
        return result.gap / result.upper


class HighDimension:
    """Exact optima of squared distances in 64 dimensions."""

    param_names = ["n"]
    params = [[5000, 10_000]]
    timeout = 300

    def setup(self, n):
        self.points = points(HIGH, n)
        otkit.solve_sample(*points(HIGH, 4200))  # compilation

    def time_solve(self, n):
        otkit.solve_sample(*self.points).plan_sparse()

    def track_gap(self, n):
        result = otkit.solve_sample(*self.points)
        return result.gap / result.upper

    def peakmem_solve(self, n):
        otkit.solve_sample(*self.points).plan_sparse()
