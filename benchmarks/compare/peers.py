"""The libraries that are compared, and their configurations.

Each function runs in the process of its library. It returns how to convert an input, and a solver: costs, weights, row
and setting → a plan, or an object that has one.
"""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

CAP = 100_000  # iterations


def otkit(**options):
    from otkit import Sinkhorn, solve

    if options:
        return np.asarray, lambda C, a, b, row, _: solve(C, a, b, reg=row.reg, method=Sinkhorn(**options))
    return np.asarray, lambda C, a, b, row, _: solve(C, a, b, reg=row.reg, tol=row.tol)


def pot(method="sinkhorn", count=CAP):
    import ot

    options = dict(method=method, numItermax=count, warn=False)
    return np.asarray, lambda C, a, b, row, threshold: ot.sinkhorn(a, b, C, row.reg, stopThr=threshold or 0, **options)


def pot_exact():
    import ot

    return np.asarray, lambda C, a, b, row, _: ot.emd(a, b, C, numItermax=10**7)


def pot_batch(method):
    import ot.batch
    import torch

    options = dict(method=method, max_iter=CAP, grad="detach")
    return torch.from_numpy, lambda C, a, b, row, tol: ot.batch.solve_batch(C, row.reg, a, b, tol=tol, **options)


def ott(momentum=None, anderson=None, batch=False):
    import jax
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.acceleration import AndersonAcceleration, Momentum
    from ott.solvers.linear.sinkhorn import Sinkhorn

    options = dict(momentum=momentum and Momentum(**momentum), anderson=anderson and AndersonAcceleration(**anderson))

    def plan(C, a, b, reg, threshold):
        solver = Sinkhorn(threshold=threshold, max_iterations=CAP, **options)
        return solver(LinearProblem(Geometry(C, epsilon=reg), a, b)).matrix

    compiled = jax.jit(jax.vmap(plan, (0, 0, 0, None, None)) if batch else plan)
    return jax.numpy.asarray, lambda C, a, b, row, threshold: compiled(C, a, b, row.reg, threshold)


def geomloss():
    import torch
    from geomloss import ot

    return torch.from_numpy, lambda C, a, b, row, count: ot.solve(C, a=a, b=b, reg=row.reg, max_iter=count)


def regot(method):
    import regot

    solve = getattr(regot, f"sinkhorn_{method}")
    return np.asfortranarray, lambda C, a, b, row, tol: solve(C, a, b, row.reg, tol=tol, max_iter=CAP)


@dataclass(frozen=True)
class Config:
    """A library with its options; the knob of its stopping rule is a "threshold", "iterations" or "nothing"."""

    library: str
    name: str
    make: object = field(compare=False)
    kind: str = "plan"
    knob: str = "threshold"
    dtypes: tuple = ("float64", "float32")


OTT = {
    "default": {},
    "momentum 1.8": dict(momentum={"value": 1.8}),
    "adaptive momentum": dict(momentum={"start": 100}),
    "Anderson 5": dict(anderson={"memory": 5}),
    "Anderson 5, ridge 1e-5": dict(anderson={"memory": 5, "ridge_identity": 1e-5}),
}
POT = ("sinkhorn", "sinkhorn_stabilized", "sinkhorn_log")
REGOT = ("ssns", "splr", "sparse_newton", "lbfgs_dual")
CONFIGS = (
    Config("otkit", "", otkit, knob="nothing"),
    *(Config("POT", method, partial(pot, method)) for method in POT),
    *(Config("OTT-JAX", name, partial(ott, **more)) for name, more in OTT.items()),
    Config("GeomLoss", "ot.solve", geomloss, knob="iterations"),
    *(Config("regot", method, partial(regot, method), dtypes=("float64",)) for method in REGOT),
    Config("otkit", "", otkit, "batch", "nothing"),
    *(Config("POT", f"batch {method}", partial(pot_batch, method), "batch") for method in ("sinkhorn", "log_sinkhorn")),
    *(Config("OTT-JAX", f"vmap, {name}", partial(ott, batch=True, **more), "batch") for name, more in OTT.items()),
    Config("otkit", "", partial(otkit, n_iters=100), "calls", "nothing"),
    Config("POT", "sinkhorn", partial(pot, count=100), "calls", "nothing"),
)
EXACT = Config("POT", "emd", pot_exact, knob="nothing")  # for reference: it solves another problem
