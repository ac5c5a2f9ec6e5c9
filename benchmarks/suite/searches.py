"""Operations on many points through trees, and on all pairs."""

import numpy as np

from otkit import PointCloud
from otkit.entropic.dual import Potentials
from otkit.kernels.numba import NUMBA
from otkit.kernels.searches import TREES

KERNELS = {"trees": TREES, "pairs": NUMBA}
PAIRS = 20_000**2  # more take all pairs too long


def points(problem, n, seed=0):
    """Two clouds in d dimensions, uniform, Gaussian or in clusters."""
    rng, kind, d = np.random.default_rng(seed), *problem
    if kind == "uniform":
        return rng.random((2, n, d))
    if kind == "Gaussian":
        return rng.normal(size=(n, d)), rng.normal(size=(n, d)) * np.linspace(0.5, 1.5, d) + 2
    centres, widths = rng.random((2, 30, d)), 10 ** rng.uniform(-3, -1, (2, 30, 1))
    of = rng.integers(0, 30, size=(2, n))
    return [c[k] + w[k] * rng.normal(size=(n, d)) for c, w, k in zip(centres, widths, of, strict=True)]


class Searches:
    """Transforms, ranges and selections, with potentials of a nearby pair of Gaussians."""

    param_names = ["kernels", "problem", "n", "metric"]
    params = [
        list(KERNELS),
        [("uniform", 2), ("Gaussian", 2), ("clusters", 2), ("uniform", 3), ("Gaussian", 3)],
        [20_000, 100_000, 1_000_000],
        ["sqeuclidean", "euclidean"],
    ]
    timeout = 300

    def setup(self, kernels, problem, n, metric):
        if (kernels == "pairs" and n**2 > PAIRS) or (metric == "euclidean" and n > 100_000):
            raise NotImplementedError("too large")
        x, y = points(problem, n)
        self.kernels, self.costs = KERNELS[kernels], PointCloud(x, y, metric).flat(())
        scale = y.std(0) / x.std(0)
        g = (y**2).sum(-1) - ((y - y.mean(0) + scale * x.mean(0)) ** 2 / scale).sum(-1)
        self.g = g[None] if metric == "sqeuclidean" else -self.costs.metric(y[None], x[None, :1]).mT[:, 0]
        self.every = np.ones((1, n), dtype=bool)
        f = self.kernels.c_transform(self.costs, self.g)  # builds the trees
        nothing = np.zeros((1, n))
        self.at = Potentials(f, self.g, nothing, nothing, np.ones(1))
        self.rows, self.cols = np.full((1, n), -1e-9), np.full((1, n), np.inf)

    def time_c_transform(self, kernels, problem, n, metric):
        self.kernels.c_transform(self.costs, self.g)

    def time_select(self, kernels, problem, n, metric):
        self.kernels.select(self.costs, self.at, self.rows, self.cols, 10 * n)

    def time_cost_range(self, kernels, problem, n, metric):
        self.kernels.cost_range(self.costs, self.every, self.every)
