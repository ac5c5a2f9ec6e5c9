"""Families of exact problems, by name: a random generator and a size give a matrix of costs and weights.

`TUNED` are those that the constants of the simplex and of the sweeps before it were chosen on. `HELD_OUT` were only
measured: they differ in weights, shapes, powers, ties, order, and in where the costs come from.
"""

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from suite.problems import fields


def weights(w):
    """Weights of total 1."""
    return w / w.sum()


def equal(n):
    return np.full(n, 1 / n)


def uniform(rng, n):
    return weights(rng.random(n))


def gamma(rng, n, shape=0.5):
    return weights(rng.gamma(shape, size=n) + 1e-12)


def _shifted(rng, n):
    x, y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 3
    return cdist(x, y, "sqeuclidean"), uniform(rng, n), uniform(rng, n)


def _normal(rng, n):
    return cdist(*rng.standard_normal((2, n, 2)), "sqeuclidean"), equal(n), equal(n)


def _ring(rng, n):
    angle = 2 * np.pi * rng.random(n)
    ring = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return cdist(rng.standard_normal((n, 2)), ring), uniform(rng, n), uniform(rng, n)


def _pareto(rng, n):
    x, y = rng.standard_normal((2, n, 3))
    return cdist(x, y, "sqeuclidean"), weights(rng.pareto(1.2, n) + 0.01), weights(rng.pareto(1.2, n) + 0.01)


def _clusters(rng, n):
    centres, shares = 20 * rng.standard_normal((8, 2)), rng.dirichlet(np.ones(8), 2)
    x, y = (centres[rng.choice(8, n, p=p)] + 0.1 * rng.standard_normal((n, 2)) for p in shares)
    return cdist(x, y, "sqeuclidean"), uniform(rng, n), uniform(rng, n)


def _cosine(rng, n):
    return cdist(*rng.standard_normal((2, n, 16)), "cosine"), uniform(rng, n), uniform(rng, n)


def _wide(rng, n):
    return cdist(*rng.standard_normal((2, n, 128)), "sqeuclidean"), equal(n), equal(n)


def _integers(rng, n):
    return rng.integers(0, 10, (n, n)).astype(float), uniform(rng, n), uniform(rng, n)


def _grid(metric):
    def problem(rng, n):
        x, y, a, b = fields(round(n**0.5), seed=int(rng.integers(2**31)))
        return cdist(x, y, metric), a, b

    return problem


def _oblong(rng, n):
    x, y = rng.standard_normal((n, 2)), rng.standard_normal((n // 4, 2)) + 1
    return cdist(x, y, "sqeuclidean"), uniform(rng, n), uniform(rng, n // 4)


def _lognormal(rng, n):
    a, b = (weights(rng.random(n) * (rng.permutation(n) < (n + 1) // 2)) for _ in range(2))
    return rng.lognormal(sigma=2, size=(n, n)), a, b


def _line(rng, n):
    x, y = np.sort(rng.random((2, n)))
    return abs(x[:, None] - y) ** 1.5, uniform(rng, n), uniform(rng, n)


def _independent(rng, n):
    return rng.random((n, n)), equal(n), equal(n)


TUNED = {
    "shifted clouds, random weights": _shifted,
    "normal clouds": _normal,
    "cloud to ring, distance": _ring,
    "3-D clouds, Pareto weights": _pareto,
    "eight tight clusters": _clusters,
    "16-D clouds, cosine": _cosine,
    "128-D clouds": _wide,
    "integers from 0 to 9": _integers,
    "fields on a grid, squared": _grid("sqeuclidean"),
    "fields on a grid, L1": _grid("cityblock"),
    "four times as many rows": _oblong,
    "log-normal costs, half without mass": _lognormal,
    "sorted points, power 1.5": _line,
    "independent uniform costs": _independent,
}


def _spiral(rng, n):
    t = 4 * np.pi * rng.random(n)
    x = np.stack([t * np.cos(t), t * np.sin(t), t], axis=1) / 4
    return cdist(x, rng.standard_t(2, (n, 3))) ** 3, gamma(rng, n), gamma(rng, n)


def _road(rng, n):
    points = rng.random((2 * n, 2))
    near, at = cKDTree(points).query(points, 5)
    graph = csr_matrix((near[:, 1:].ravel(), (np.repeat(np.arange(2 * n), 4), at[:, 1:].ravel())), (2 * n, 2 * n))
    C = dijkstra(graph, directed=False, indices=np.arange(n))[:, n:]
    C[np.isinf(C)] = 2 * C[np.isfinite(C)].max()
    return C, gamma(rng, n), gamma(rng, n)


def _degrees(rng, n):
    x, y = (np.rint(rng.normal(mean, 60, n)) % 360 for mean in (90, 200))
    gap = abs(x[:, None] - y)
    return np.minimum(gap, 360 - gap), gamma(rng, n), gamma(rng, n)


def _words(rng, n):
    x, y = (rng.choice(4, (n, 14), p=p) for p in ([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]))
    return np.rint(14 * cdist(x, y, "hamming")), equal(n), equal(n)


def _tree(rng, n):
    parent = np.array([0, *(int(rng.integers(k)) for k in range(1, 2 * n))])
    length = rng.integers(1, 20, 2 * n).astype(float)
    graph = coo_matrix((length[1:], (np.arange(1, 2 * n), parent[1:])), (2 * n, 2 * n)).tocsr()
    nodes = rng.permutation(2 * n)
    return dijkstra(graph, directed=False, indices=nodes[:n])[:, nodes[n:]], uniform(rng, n), uniform(rng, n)


def _sphere(rng, n):
    x, y = rng.standard_normal((2, n, 3)) + np.array([[[0.0, 0, 1]], [[1, 0, 0]]])
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    return np.arccos(np.clip(x @ y.T, -1, 1)), weights(rng.exponential(size=n)), weights(rng.exponential(size=n))


def _concave(rng, n):
    x, y = rng.random((2, n, 2))
    return cdist(x, y) ** 0.5, weights(rng.lognormal(sigma=2, size=n)), equal(n)


def _capped(rng, n):
    x, y = rng.random((2, n, 2))
    return np.minimum(cdist(x, y), 0.15), uniform(rng, n), uniform(rng, n)


def _moved(rng, n):
    x = rng.exponential(size=(n, 3))
    return cdist(x, x[rng.permutation(n)] + 0.01 * rng.standard_normal((n, 3)), "sqeuclidean"), equal(n), equal(n)


def _lattice(rng, n):
    x, y = np.rint(6 * rng.standard_normal((n, 2))), np.rint(4 * rng.standard_normal((n, 2)) + 3)
    return cdist(x, y, "sqeuclidean"), weights(rng.integers(1, 6, n)), weights(rng.integers(1, 6, n))


def _series(rng, n):
    x, y = np.cumsum(rng.standard_normal((2, n, 24)), axis=2)
    return cdist(x, y + 0.5, "chebyshev"), uniform(rng, n), uniform(rng, n)


def _products(rng, n):
    x, y = rng.standard_t(3, (2, n, 4))
    return -(x @ y.T), weights(rng.lognormal(size=n)), weights(rng.lognormal(size=n))


def _few(rng, n):
    x, y = rng.random((n // 3, 5)), rng.beta(2, 5, (n, 5))
    return cdist(x, y, "cityblock"), gamma(rng, n // 3, 0.3), gamma(rng, n, 0.3)


def _moons(rng, n):
    t, s = np.pi * np.sort(rng.random((2, n)), axis=1)
    x = np.stack([np.cos(t), np.sin(t)], axis=1) + 0.05 * rng.standard_normal((n, 2))
    y = np.stack([1 - np.cos(s), 0.5 - np.sin(s)], axis=1) + 0.05 * rng.standard_normal((n, 2))
    return cdist(x, y) ** 4, uniform(rng, n), uniform(rng, n)


def _few_with_mass(rng, n):
    a, b = (w * (rng.random(n) > 0.6) for w in (uniform(rng, n), uniform(rng, n)))
    return rng.integers(0, 10, (n, n)).astype(float), a / a.sum(), b / b.sum()


HELD_OUT = {
    "spiral to Student's t, cubed distance": _spiral,
    "shortest paths of a road network": _road,
    "whole degrees on a circle": _degrees,
    "words, Hamming distance": _words,
    "shortest paths of a random tree": _tree,
    "directions, angle": _sphere,
    "root of the distance, log-normal weights": _concave,
    "capped distance": _capped,
    "slightly moved points, permuted": _moved,
    "points of a lattice, squared": _lattice,
    "random walks, largest difference": _series,
    "products of heavy-tailed factors": _products,
    "5-D, L1, three times as many columns": _few,
    "sorted moons, fourth power": _moons,
    "integers 0 to 9, 60 % without mass": _few_with_mass,
}
FAMILIES = TUNED | HELD_OUT


def problem(name, n, seed=0):
    """A problem of a family: a matrix of costs, the largest absolute value of which is 1, and weights."""
    C, a, b = FAMILIES[name](np.random.default_rng([seed, n]), n)
    return np.ascontiguousarray(C / abs(C).max()), a, b
