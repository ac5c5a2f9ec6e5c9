"""Barycenters on a fixed support, beside POT; run ``python benchmarks/compare/barycenters.py``.

Prints the time, and the true mean cost of the masses found, from exact solves, divided by a certified lower bound on
that of the best barycenter. All have the same `reg`. POT stops at an error of 1e-4, or after 5000 iterations. The
certified excess of otkit is that of the regularised objective over its minimum, relative to its value.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from suite.barycenters import PROBLEMS, costs

import otkit


def by_otkit(images, weights, reg, **options):
    return otkit.barycenter(images, weights, spacing=1.0, reg=reg, **options).masses


def by_pot(images, weights, reg, method):
    import ot

    a = images.reshape(len(images), -1).T
    options = dict(weights=weights, method=method, stopThr=1e-4, numItermax=5000)
    return ot.bregman.barycenter(a, costs(images), reg, **options)


def by_pot_convolution(images, weights, reg):
    import ot

    side = images.shape[-1]
    unit = 2 * reg / side**2  # POT has the unit square, and half the squared distance
    return ot.bregman.convolutional_barycenter2d(images, unit, weights, stopThr=1e-4, numItermax=5000)


def true_cost(images, weights, masses):
    b = np.asarray(masses).reshape(images.shape[1:])
    parts = otkit.solve_grid(images, np.broadcast_to(b / b.sum(), images.shape), spacing=(1.0,) * b.ndim)
    return float(weights @ parts.value)


def measure(name, share, rounds):
    images, weights = PROBLEMS[name]()
    best = otkit.barycenter(images, weights, spacing=1.0, rtol=1e-3).lower
    reg = share * costs(images).max()
    sure = otkit.barycenter(images, weights, spacing=1.0, reg=reg, tol=1e-4)
    print(f"{name:12} reg {share:7.0e}  otkit, certified excess {sure.excess / sure.value:.0e}", flush=True)
    calls = {
        "otkit": partial(by_otkit, tol=1e-4),
        "otkit, debiased": partial(by_otkit, debias=True, tol=1e-3),
        "POT sinkhorn": partial(by_pot, method="sinkhorn"),
        "POT sinkhorn_log": partial(by_pot, method="sinkhorn_log"),
    }
    if images.ndim == 3:
        calls["POT convolutional"] = by_pot_convolution
    spent, found = {label: [] for label in calls}, {}
    for call in calls.values():
        call(images, weights, reg)  # compilation
    for _ in range(rounds):
        for label, call in calls.items():
            began = time.perf_counter()
            found[label] = call(images, weights, reg)
            spent[label].append(time.perf_counter() - began)
    for label, masses in found.items():
        paid = true_cost(images, weights, masses)
        print(
            f"{name:12} reg {share:7.0e}  {label:18} {1e3 * np.median(spent[label]):9.1f} ms  "
            f"cost {paid / best:8.4f} of the best",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--regs", type=float, nargs="+", default=[1e-2, 1e-3])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.problems:
        for share in arguments.regs:
            measure(name, share, arguments.rounds)
