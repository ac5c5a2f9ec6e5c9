"""Partial transport, slices, Gaussians and POT's names beside POT; run ``python benchmarks/compare/kinds.py``.

Prints a Markdown table with medians of the times, in turns in one process, and the difference of the numbers relative
to POT’s: of penalties, by how much otkit’s minimum is less. For entropic partial transport POT takes the 1000
iterations of its default.
"""

import itertools
import sys
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, save, timed

from compare.tables import heading, human, line

TITLES = "problem, otkit, POT, POT / otkit, (POT − otkit) / POT"
MASS = 0.6


def measures(n, d=2, seed=0):
    """Two clouds of n points with weights, and the squared distances."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, d)), rng.random((n, d))
    a, b = rng.dirichlet(np.ones(n), size=2)
    return x, y, a, b, ((x[:, None] - y) ** 2).sum(-1)


def of_matrices():
    """The name of each problem with a matrix of costs, and the two calls that return its number."""
    import ot

    import otkit
    import otkit.pot

    for n in (10, 30, 100, 300, 1000):
        *_, a, b, M = measures(n)
        yield (
            f"partial, n = {n}",
            lambda M=M, a=a, b=b: otkit.solve(M, a, b, mass=MASS).value,
            lambda M=M, a=a, b=b: ot.partial.partial_wasserstein2(a, b, M, MASS, numItermax=10**7),
        )
    *_, a, b, M = measures(100)
    yield (
        "total variation, n = 100",
        lambda: otkit.solve(M, a, b, unbalanced=0.1, penalty="tv").value,
        lambda: ot.solve(M, a, b, unbalanced=0.1, unbalanced_type="TV").value,
    )
    for n, rho in ((100, 0.1), (100, 1.0), (300, 1.0), (300, 10.0)):
        *_, a, b, M = measures(n)
        yield (
            f"KL penalties, n = {n}, ρ = {rho:g}",
            lambda M=M, a=a, b=b, rho=rho: otkit.solve(M, a, b, unbalanced=rho).value,
            lambda M=M, a=a, b=b, rho=rho: ot.solve(M, a, b, unbalanced=rho, unbalanced_type="KL").value,
        )
    *_, a, b, M = measures(100)
    for reg in (0.1, 0.01):
        yield (
            f"otkit.pot, entropic partial, n = 100, reg {reg:g}",
            *(
                lambda module=module, reg=reg: module.partial.entropic_partial_wasserstein(
                    a, b, M, reg, MASS, method="sinkhorn_log", log=True
                )[1]["partial_w_dist"]
                for module in (otkit.pot, ot)
            ),
        )
    for n in (10, 100, 1000):
        *_, v, w, C = measures(n)
        yield (
            f"otkit.pot, emd2, n = {n}",
            *(lambda module=module, v=v, w=w, C=C: module.emd2(v, w, C) for module in (otkit.pot, ot)),
        )


def of_points():
    """The same for points and moments."""
    import ot

    import otkit
    import otkit.pot

    x, y, *_ = measures(1000, 16)
    theta = np.random.default_rng(1).normal(size=(50, 16))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    yield (
        "sliced, n = 1000, 50 lines",
        lambda: otkit.sliced_wasserstein(x, y, projections=theta).distance,
        lambda: ot.sliced_wasserstein_distance(x, y, projections=theta.T),
    )
    one, two = (np.cov(v, rowvar=False) for v in (x, y))
    yield (
        "Gaussians, d = 16",
        lambda: otkit.gaussian_wasserstein(x.mean(0), y.mean(0), one, two),
        lambda: ot.gaussian.bures_wasserstein_distance(x.mean(0), y.mean(0), one, two),
    )
    wide, other, *_ = measures(2000, 256)
    yield (
        "features (FID), n = 2000, d = 256",
        lambda: otkit.fid(wide, other),
        lambda: (
            ot.gaussian.bures_wasserstein_distance(
                wide.mean(0), other.mean(0), np.cov(wide, rowvar=False), np.cov(other, rowvar=False)
            )
            ** 2
        ),
    )
    clouds = [np.random.default_rng(k).normal(size=(100, 2)) + k for k in range(4)]
    start, equal = clouds[0][:50], np.full(100, 0.01)
    yield (
        "otkit.pot, free_support_barycenter, 4 of 100 points",
        *(
            lambda module=module: module.lp.free_support_barycenter(clouds, [equal] * 4, start, numItermax=20).sum()
            for module in (otkit.pot, ot)
        ),
    )


def main():
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    heading(TITLES)
    rows = []
    for name, ours, theirs in itertools.chain(of_matrices(), of_points()):
        calls = {"otkit": ours, "pot": theirs}
        for call in calls.values():
            call()  # compiles
        found = in_turns({key: partial(timed, call) for key, call in calls.items()}, args.rounds)
        times = {key: median(seconds for _, seconds in runs) for key, runs in found.items()}
        a, b = (float(runs[0][0]) for runs in found.values())
        rows.append({"problem": name, "times": times, "difference": (b - a) / abs(b)})
        line(name, *map(human, times.values()), f"{times['pot'] / times['otkit']:.1f}", f"{(b - a) / abs(b):.0e}")
    save(args.json, described(args, "otkit", "pot", "numpy", "numba") | {"rows": rows})


if __name__ == "__main__":
    main()
