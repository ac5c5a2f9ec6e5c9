"""All pairs of many clouds beside a loop over POT's; run ``python benchmarks/compare/pairs.py``.

Prints a Markdown table with medians of the times of ``otkit.pairwise`` and of a loop over the pairs that calls
``ot.dist`` and ``ot.emd2``, or ``ot.wasserstein_1d`` on a line. They take turns in one process. Distances are squared
Wasserstein distances of order 2, and the last column is the largest difference, relative to the largest distance.
"""

import sys
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, save, timed

from compare.tables import heading, human, line

PACKAGES = ("otkit", "pot", "numpy", "scipy", "numba")
TITLES = "measures, otkit, loop over POT, POT / otkit, difference"


def families(rng):
    """Clouds that differ in size, dimension, weights, spread and ties: points and weights of each measure."""
    equal = [np.full(n, 1 / n) for n in range(1, 201)]

    def clouds(count, n, d):
        return [(x, equal[n - 1]) for x in rng.random((count, n, d))]

    yield "60 of 20 points", clouds(60, 20, 2)
    yield "40 of 100 points", clouds(40, 100, 2)
    yield "60 of 8 points", clouds(60, 8, 3)
    yield "12 of 200 points", clouds(12, 200, 2)
    yield "60 of 20 points, Dirichlet weights", [(x, rng.dirichlet(np.ones(20))) for x, _ in clouds(60, 20, 2)]
    yield "40 of 5 to 100 points", [(rng.random((n, 2)), equal[n - 1]) for n in rng.integers(5, 101, 40)]
    yield "60 of 20 points in 64-D", clouds(60, 20, 64)
    yield "60 of 25 points on a grid", [(np.round(9 * x), a) for x, a in clouds(60, 25, 2)]
    yield "60 of 20 points, far from each other", [(x + 9 * rng.normal(size=2), a) for x, a in clouds(60, 20, 2)]
    yield "60 of 20 points, heavy tails", [(x * rng.lognormal(sigma=2, size=(20, 1)), a) for x, a in clouds(60, 20, 2)]
    yield "100 of 5 points on a line", clouds(100, 5, 1)
    yield "60 of 100 points on a line", clouds(60, 100, 1)


def by_pot(measures):
    import ot

    def pair(one, other):
        (x, a), (y, b) = one, other
        if x.shape[1] == 1:
            return ot.wasserstein_1d(x[:, 0], y[:, 0], a, b, p=2)
        return ot.emd2(a, b, ot.dist(x, y))

    return np.array([pair(one, other) for k, one in enumerate(measures) for other in measures[k + 1 :]])


def by_otkit(measures):
    import otkit

    return otkit.pairwise(measures).condensed.distance ** 2


def main():
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    heading(TITLES)
    rows = []
    for name, measures in families(np.random.default_rng(0)):
        by_otkit(measures[:3])  # compiles
        by_pot(measures[:3])
        found = in_turns(
            {"otkit": lambda m=measures: timed(by_otkit, m), "pot": lambda m=measures: timed(by_pot, m)}, args.rounds
        )
        ours, theirs = (median(seconds for _, seconds in found[key]) for key in ("otkit", "pot"))
        a, b = (found[key][0][0] for key in ("otkit", "pot"))
        row = {"measures": name, "otkit": ours, "pot": theirs, "difference": float(abs(a - b).max() / b.max())}
        rows.append(row)
        line(name, human(ours), human(theirs), f"{theirs / ours:.1f}", f"{row['difference']:.0e}")
    save(args.json, described(args, *PACKAGES) | {"rows": rows})


if __name__ == "__main__":
    main()
