"""Solves on a GPU beside peers, at the same true marginal error.

Each solver returns potentials (f, g) or a plan, of costs or of points x and y in the array of the problem.
"""

from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from statistics import median

import torch

import otkit

ACCEPT = {"float64": 1e-6, "float32": 1e-4}
LIMIT = 30  # seconds of a solve, after which no tighter setting is tried


def ours(case, tol):
    if case.d:
        return otkit.solve_sample(case.x, case.y, reg=case.reg, tol=tol).potentials
    return otkit.solve(case.C, reg=case.reg, tol=tol).plan


def geomloss(case, count):
    from geomloss import ot

    if case.d:
        found = ot.solve_sample(case.x, case.y, reg=case.reg, max_iter=count)
        return found.potential_a, found.potential_b
    return ot.solve(case.C, reg=case.reg, max_iter=count).plan


def annealed(case, scaling):
    from geomloss import SamplesLoss

    options = dict(p=2, blur=(case.reg / 2) ** 0.5, scaling=scaling, debias=False, potentials=True)
    loss = SamplesLoss("sinkhorn", backend="online", **options)
    return [2 * v.flatten() for v in loss(case.x, case.y)]  # its cost is half the squared distance


def flash(allow_tf32, case, count):
    from flash_sinkhorn import SamplesLoss

    options = dict(eps=case.reg, use_epsilon_scaling=False, n_iters=count, allow_tf32=allow_tf32)
    return SamplesLoss(debias=False, potentials=True, backend="alternating", **options)(case.x, case.y)


def pot(method, case, threshold):
    import ot

    return ot.sinkhorn(case.a, case.b, case.C, case.reg, method=method, stopThr=threshold, numItermax=100_000)


def curegot(method, case, tol):
    import curegot

    solver = getattr(curegot.torch, f"sinkhorn_{method}")
    return solver(case.C, case.a, case.b, case.reg, tol=tol, max_iter=100_000)["plan"]


@dataclass(frozen=True)
class Solver:
    """A solver with the settings of its stopping rule, the loosest first, and the kinds of problem that it accepts."""

    name: str
    call: object = field(repr=False)
    package: str
    settings: tuple
    takes: tuple = ("points", "costs")


THRESHOLDS = tuple(10.0**-k for k in range(2, 11))
SCALINGS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
COUNTS = (10, 30, 100, 300, 1000, 3000, 10_000)
SOLVERS = (
    Solver("otkit", ours, "otkit", THRESHOLDS),
    Solver("GeomLoss ot", geomloss, "geomloss", COUNTS),
    Solver("GeomLoss SamplesLoss", annealed, "pykeops", SCALINGS, ("points",)),
    Solver("FlashSinkhorn", partial(flash, True), "flash_sinkhorn", COUNTS, ("points",)),
    Solver("FlashSinkhorn, no TF32", partial(flash, False), "flash_sinkhorn", COUNTS, ("points",)),
    Solver("cuRegOT bcd", partial(curegot, "bcd"), "curegot", THRESHOLDS),
    Solver("cuRegOT splr", partial(curegot, "splr"), "curegot", THRESHOLDS),
    Solver("POT sinkhorn", partial(pot, "sinkhorn"), "ot", THRESHOLDS),
    Solver("POT sinkhorn_log", partial(pot, "sinkhorn_log"), "ot", THRESHOLDS),
)


@dataclass(frozen=True)
class Case:
    """A problem with uniform weights, of points x and y in d dimensions or of costs alone."""

    n: int
    dtype: str
    d: int | None
    x: object
    y: object
    C: object
    a: object
    reg: float

    @property
    def b(self):
        return self.a

    @staticmethod
    def of(n, dtype, d, relative, device):
        """Uniform points or costs; `relative` is the regularisation in units of the largest cost."""
        kind, generator = getattr(torch, dtype), torch.Generator(device).manual_seed(0)
        options = dict(dtype=kind, device=device, generator=generator)
        x = y = None
        if d:
            x, y = (torch.rand((n, d), **options) for _ in range(2))
        C = squared(x, y).to(kind) if d else torch.rand((n, n), **options)
        a = torch.full((n,), 1 / n, dtype=kind, device=device)
        return Case(n, dtype, d, x, y, C, a, relative * float(C.max()))

    def error(self, answer):
        """The true error of potentials or a plan, in float64 and by blocks of rows."""
        rows, cols = [], torch.zeros(self.n, dtype=torch.float64, device=self.a.device)
        for block in torch.arange(self.n, device=self.a.device).split(1024):
            if torch.is_tensor(answer):
                P = answer[block].double()
            else:
                f, g = (v.flatten().double() for v in answer)
                C = squared(self.x[block], self.y) if self.d else self.C[block].double()
                P = ((f[block, None] + g[None, :] - C) / self.reg).exp() / self.n**2
            rows.append(P.sum(1))
            cols += P.sum(0)
        miss = (torch.cat(rows) - 1 / self.n).abs().sum() + (cols - 1 / self.n).abs().sum()
        return float(miss)


def squared(x, y):
    """The squared distances, in float64 and from differences."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2


def available(package):
    """Whether a package can be imported; some fail on a machine without the right libraries."""
    try:
        import_module(package)
    except Exception:
        return False
    return True


def solved(clock, case, solver):
    """The record of the loosest setting that reaches the error, or of the last that was tried."""
    record = {"status": "not tried"}
    try:
        for setting in solver.settings:
            call = partial(solver.call, case, setting)
            answer, first = clock.once(call)
            error = case.error(answer)
            record = {"setting": setting, "error": error, "first": first}
            if error <= ACCEPT[case.dtype]:
                return record | {"status": "ok", "seconds": median(clock.once(call)[1] for _ in range(3))}
            record["status"] = f"only {error:.0e}"
            if first > LIMIT:
                break
    except Exception as failure:  # a library that fails is reported, and the others go on
        record["status"] = f"failed: {type(failure).__name__}: {failure}"[:80]
    return record


def measure_solves(device, clock, sizes):
    solvers = [solver for solver in SOLVERS if available(solver.package)]
    for dtype, d in (("float32", None), ("float64", None), ("float32", 3), ("float32", 64)):
        for n in sizes.solved:
            for relative in sizes.regs:
                case = Case.of(n, dtype, d, relative, device)
                for solver in solvers:
                    if ("points" if d else "costs") in solver.takes:
                        about = {"solver": solver.name, "n": n, "dtype": dtype, "d": d, "reg": relative}
                        yield about | solved(clock, case, solver)
