"""Problems for the tests: drawn at random, hard ones by name, and ones that know their answer."""

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

METRICS = ("sqeuclidean", "euclidean", "cityblock", "cosine", ("power", 1.5), ("power", 3.0))


def first(quick, values: Iterable):
    """Parameters of which the `quick` first are in a quick run, and the others among the slow tests."""
    return [pytest.param(v, marks=() if k < quick else pytest.mark.slow) for k, v in enumerate(values)]


@contextmanager
def told(seed):
    """Say the seed of a random problem beside what fails with it."""
    try:
        yield
    except Exception as error:
        error.add_note(f"the random seed is {seed}")
        raise


@dataclass(frozen=True)
class Case:
    """A problem between weighted points or for a cost matrix."""

    C: np.ndarray
    a: np.ndarray
    b: np.ndarray
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    metric: object = None

    @property
    def span(self):
        """The range of the finite costs."""
        finite = self.C[np.isfinite(self.C)]
        return float(finite.max() - finite.min()) or 1.0


def distances(x, y, metric):
    """Costs from their definition, in long double where it is wider."""
    x, y = np.asarray(x, dtype=np.longdouble), np.asarray(y, dtype=np.longdouble)
    difference = x[:, None, :] - y[None, :, :]
    if metric == "cosine":
        lengths = np.sqrt((x * x).sum(-1))[:, None] * np.sqrt((y * y).sum(-1))[None, :]
        return (1 - (x[:, None, :] * y[None, :, :]).sum(-1) / lengths).astype(float)
    if metric == "cityblock":
        return abs(difference).sum(-1).astype(float)
    power = {"sqeuclidean": 2.0, "euclidean": 1.0}.get(metric) or metric[1]
    return (np.sqrt((difference**2).sum(-1)) ** power).astype(float)


def random_case(seed, n=None, m=None):
    """A cloud of at most 90 points a side in at most 6 dimensions, with Dirichlet weights and any metric."""
    rng = np.random.default_rng(seed)
    n, m = n or rng.integers(1, 91), m or rng.integers(1, 91)
    d = rng.integers(1, 7)
    metric = METRICS[seed % len(METRICS)]
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d)) * rng.uniform(0.2, 2) + rng.uniform(-2, 2)
    a, b = (rng.dirichlet(np.full(k, rng.choice([0.3, 1.0, 10.0]))) for k in (n, m))
    return Case(distances(x, y, metric), a, b, x, y, metric)


def random_problem(seed):
    """Arguments of `otkit.solve` at a small `reg`, and that relative to the range of the costs: any family and weights.

    Independent costs, few integers, points on lines, in clouds, clusters and grids; up to 400 points a side and 64
    dimensions; weights over any range; balanced or not; units of 1, 1e6 and 1e-6.
    """
    rng = np.random.default_rng(seed)
    n, m = (int(k) for k in rng.integers(20, 401, 2))
    C = _random_costs(rng, n, m)
    n, m = C.shape
    span = np.ptp(C) or 1.0
    a, b = _random_weights(rng, n), _random_weights(rng, m)
    relative = 10.0 ** -int(rng.integers(2, 7))
    unbalanced = None
    if rng.random() < 0.4:
        unbalanced = span * 10 ** rng.uniform(-2, 2, 2)
        if rng.random() < 0.3:
            unbalanced[rng.integers(2)] = np.inf
        else:
            b = b * 10 ** rng.uniform(-1, 1)
    unit = 10.0 ** rng.choice([0, 0, 0, 6, -6])
    given = None if unbalanced is None else tuple(float(rho * unit) for rho in unbalanced)
    return dict(C=C * unit, a=a, b=b, reg=relative * span * unit, unbalanced=given), relative


def _random_costs(rng, n, m):
    family = rng.choice(["independent", "ties", "grid", "cloud", "line", "normal", "clusters"])
    d, metric = int(rng.choice([1, 2, 3, 8, 64])), rng.choice(["sqeuclidean", "euclidean", "cityblock", "cosine"])
    if family == "independent":
        return rng.random((n, m))
    if family == "ties":
        return rng.integers(0, rng.integers(2, 20), (n, m)).astype(float)
    if family == "grid":
        pixels = np.argwhere(np.ones((int(n**0.5),) * 2))
        return distances(pixels, pixels, "cityblock" if metric == "cosine" else metric)
    if family == "line":
        return distances(rng.random((n, 1)), rng.random((m, 1)), "sqeuclidean" if metric == "cosine" else metric)
    if family == "cloud":
        return distances(rng.random((n, d)), rng.random((m, d)), metric)
    if family == "normal":
        return distances(rng.standard_normal((n, d)), rng.standard_normal((m, d)) + rng.random(), metric)
    centres = rng.standard_normal((rng.integers(2, 6), d)) * 10 ** rng.uniform(0, 3)
    x, y = (centres[rng.integers(0, len(centres), k)] + rng.standard_normal((k, d)) for k in (n, m))
    return distances(x, y, metric)


def _random_weights(rng, n):
    w = {
        "uniform": lambda: np.ones(n),
        "random": lambda: rng.random(n),
        "sparse": lambda: rng.dirichlet(np.full(n, 0.05)),
        "zeros": lambda: np.append(1.0, rng.random(n - 1) * (rng.random(n - 1) < 0.7)),
        "tiny": lambda: np.append(1.0, np.where(rng.random(n - 1) < 0.3, 1e-300, rng.random(n - 1))),
        "skew": lambda: rng.exponential(size=n) ** 3,
    }[rng.choice(["uniform", "random", "sparse", "zeros", "tiny", "skew"])]()
    return w / w.sum()


def small_reg_cases():
    """Cases that are hard for a small regularisation, by name."""
    rng = np.random.default_rng(11)
    line = np.linspace(0, 1, 200)[:, None]
    bumps = np.exp(-100 * (line - 0.2) ** 2) + np.exp(-20 * abs(line - 0.4)) + 0.01, np.exp(-100 * (line - 0.6) ** 2)
    a, b = (w[:, 0] / w.sum() for w in (bumps[0], bumps[1] + 0.01))
    pixels = np.argwhere(np.ones((14, 14)))
    fields = [np.exp(rng.standard_normal((14, 14)).cumsum(0).cumsum(1) / 8).ravel() for _ in range(2)]
    clouds = {d: (rng.standard_normal((150, d)), rng.standard_normal((120, d))) for d in (2, 64)}
    return {
        "assignment": Case(rng.random((200, 200)), _uniform(200), _uniform(200)),
        "assignment with ties": Case(rng.integers(0, 10, (150, 150)).astype(float), _uniform(150), _uniform(150)),
        "bumps on a line, absolute": Case(abs(line - line.T), a, b),
        "bumps on a line, squared": Case((line - line.T) ** 2, a, b),
        "fields, cityblock": Case(distances(pixels, pixels, "cityblock"), *(w / w.sum() for w in fields)),
        "fields, squared": Case(distances(pixels, pixels, "sqeuclidean"), *(w / w.sum() for w in fields)),
        **{
            f"cloud in {d}-D": Case(distances(x, y, "sqeuclidean"), _uniform(150), rng.dirichlet(np.ones(120)))
            for d, (x, y) in clouds.items()
        },
        "few columns": Case(rng.random((300, 3)), _uniform(300), np.array([0.2, 0.5, 0.3])),
        "sparse masses on a cloud": Case(
            distances(*clouds[2], "euclidean"), rng.dirichlet(np.full(150, 0.05)), rng.dirichlet(np.full(120, 0.05))
        ),
    }


def blocks(gap, imbalance, count=2, n=120):
    """Blocks that are `gap` times their own range of costs apart; of the first one's mass, `imbalance` must leave it."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % count
    order = rng.permutation(n)
    C = rng.random((n, n)) + gap * abs(label[:, None] - label[order])
    a = 1 + imbalance * (label == 0)
    b = 1 + imbalance * (label[order] == count - 1)
    return Case(C, a / a.sum(), b / b.sum())


def _uniform(n):
    return np.full(n, 1 / n)


def hard_cases():
    """The valid cases that are known to break solvers, by name."""
    rng = np.random.default_rng(7)
    C = rng.random((40, 30))
    a, b = rng.dirichlet(np.ones(40)), rng.dirichlet(np.ones(30))
    x, y = rng.standard_normal((40, 2)), rng.standard_normal((30, 2))
    line = np.sort(rng.random(60))[:, None]
    holes_a, holes_b = np.where(np.arange(40) % 3 == 0, 0, a), np.where(np.arange(30) % 4 == 1, 0, b)
    steep_a, steep_b = 10.0 ** -np.linspace(0, 300, 40), 10.0 ** -np.linspace(0, 300, 30)[::-1]
    blocks = np.where(np.add.outer(np.arange(40) // 20, np.arange(30) // 15) == 1, np.inf, C)
    block_a = np.concatenate([_uniform(20) * 0.4, _uniform(20) * 0.6])
    block_b = np.concatenate([_uniform(15) * 0.4, _uniform(15) * 0.6])
    banded = np.where(abs(np.subtract.outer(np.arange(40), np.arange(40))) > 8, np.inf, rng.random((40, 40)))
    outlier = C.copy()
    outlier[3, 5] = 1e6
    return {
        "zero weights": Case(C, holes_a / holes_a.sum(), holes_b / holes_b.sum()),
        "masses over 300 orders": Case(C, steep_a / steep_a.sum(), steep_b / steep_b.sum()),
        "sparse masses": Case(C, rng.dirichlet(np.full(40, 0.05)), rng.dirichlet(np.full(30, 0.05))),
        "inf: separate blocks": Case(blocks, block_a, block_b),
        "inf: a band": Case(banded, _uniform(40), _uniform(40)),
        "one point each": Case(np.array([[3.0]]), np.ones(1), np.ones(1)),
        "one row": Case(C[:1], np.ones(1), b),
        "one column": Case(C[:, :1], a, np.ones(1)),
        "many rows, three columns": Case(rng.random((500, 3)), _uniform(500), np.array([0.2, 0.5, 0.3])),
        "integer ties": Case(rng.integers(0, 3, (40, 30)).astype(float), a, b),
        "constant cost": Case(np.full((40, 30), 2.5), a, b),
        "identical points": Case(np.zeros((40, 30)), a, b, np.ones((40, 2)), np.ones((30, 2)), "euclidean"),
        "equal measures": Case(distances(x, x, "euclidean"), a, a, x, x, "euclidean"),
        "duplicated points": Case(distances(x[:5].repeat(8, 0), y, "sqeuclidean"), a, b, x[:5].repeat(8, 0), y, "sqeuclidean"),
        "costs in 1e8 units": Case(C * 1e8, a, b),
        "costs in 1e-8 units": Case(C * 1e-8, a, b),
        "offset of 1e6": Case(C + 1e6, a, b),
        "offsets of rows and columns": Case(C + 1e3 * x[:, :1] + 1e3 * y[:, :1].T, a, b),
        "negative costs": Case(-C, a, b),
        "one outlier cost": Case(outlier, a, b),
        "a line, absolute cost": Case(abs(line - line.T + 0.1), _uniform(60), rng.dirichlet(np.ones(60)), line, line - 0.1, "euclidean"),
        "far from the origin": Case(distances(x, y, "sqeuclidean"), a, b, x + 2.0**20, y + 2.0**20, "sqeuclidean"),
    }  # fmt: skip
