"""otkit's operations on a GPU beside the least that they can take, and batches of small problems."""

import math
from dataclasses import dataclass, field
from functools import partial

import torch

from otkit import Sinkhorn, solve
from otkit.entropic.anderson import Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.geometry import Dense, PointCloud
from otkit.geometry.reduced import Reduced
from otkit.kernels import choose

BATCH_REG = 0.1


@dataclass(frozen=True)
class Operation:
    """A call, and the least that it does per entry."""

    name: str
    call: object = field(repr=False)
    exponentials: str = "none"  # "float32" or "float64"
    written: int = 0  # bytes


@dataclass(frozen=True)
class Problem:
    """Costs of n × n, dense or of points in d dimensions, on a device."""

    n: int
    dtype: str
    d: int | None
    device: str

    @property
    def read(self):
        """Bytes of a cost that lies in memory."""
        return 0 if self.d else {"float64": 8, "float32": 4}[self.dtype]

    def geometry(self, rows):
        kind, generator = getattr(torch, self.dtype), torch.Generator(self.device).manual_seed(0)

        def random(*shape):
            return torch.rand((1, *shape), dtype=kind, device=self.device, generator=generator)

        if self.d is None:
            return Dense(random(rows, self.n))
        return PointCloud(random(rows, self.d), random(self.n, self.d)).flat((1,))

    def state(self, rows):
        """The first rows of the costs, reduced by 0, and potentials with which those rows are exact."""

        def full(value, *size):
            return torch.full((1, *size), value, dtype=torch.float64, device=self.device)

        costs = Reduced(self.geometry(rows), full(0.0, rows), full(0.0, self.n))
        log_a, log_b = full(-math.log(rows), rows), full(-math.log(self.n), self.n)
        g, reg = full(0.0, self.n), full(0.01 * (self.d or 1))
        return costs, Potentials(choose(costs).softmin(costs, g, log_b, reg), g, log_a, log_b, reg)

    def threshold(self):
        """The log of a bound that about ten entries of a row are above, estimated from the first rows."""
        rows = min(self.n, 64)
        costs, at = self.state(rows)
        some = choose(costs).plan(costs, at).flatten()[: 2**20]
        return math.log(float(some.quantile(1 - min(0.5, 10 / self.n)))) - math.log(self.n / rows)


def operations(problem):
    costs, at = problem.state(problem.n)
    kernels = choose(costs)
    ones = torch.ones((1, problem.n, 1), dtype=torch.float64, device=problem.device)
    low = torch.full_like(at.f, problem.threshold())
    yield Operation("softmin", partial(kernels.softmin, costs, at.g, at.log_b, at.reg), "float64")
    yield Operation("marginals", partial(kernels.marginals, costs, at), "float64")
    yield Operation("transport_cost", partial(kernels.transport_cost, costs, at), "float64")
    yield Operation("plan", partial(kernels.plan, costs, at), "float64", 8)
    yield Operation("plan, single", partial(kernels.plan, costs, at, single=True), "float32", 4)
    yield Operation("apply_plan", partial(kernels.apply_plan, costs, at, ones), "float64")
    yield Operation("c_transform", partial(kernels.c_transform, costs, at.g))
    yield Operation("select", partial(kernels.select, costs, at, low, low, 100.0 * problem.n))

    exact = torch.full_like(at.reg, torch.inf)
    # From a tolerance of 1e-5 on, exponentials are single. Differences are single too where the range of the costs is
    # small enough beside reg; mixing may reach as far as that range.
    forms = {"single": (1e-5, 0.0), "mixed": (1e-5, 1e12), "double": (1e-14, 0.0)}
    for form, (tol, reach) in forms.items():
        if form == "single" and (problem.d or problem.dtype == "float64"):
            continue
        mixing = Mixing.begin(at.g, torch.full_like(at.reg, reach))

        def sweep(k, tol=tol, mixing=mixing):
            goal, limit = torch.full_like(at.reg, tol), torch.full_like(at.reg, float(k))
            return kernels.sweep(costs, at, Penalties(exact, exact), mixing, goal, limit, k)

        yield Operation(f"sweep iteration, {form}", sweep, "float64" if form == "double" else "float32")


def least(problem, operation, ceilings):
    """The least time of an operation in seconds, by the ceilings."""
    entries = problem.n**2
    bound = [entries * (problem.read + operation.written) / ceilings["copy, B/s"]]
    if operation.exponentials != "none":
        bound.append(entries / ceilings[f"{operation.exponentials} exponentials/s"])
    if problem.d:
        bound.append(entries * 2 * problem.d / ceilings["float64 additions/s"])
    return max(bound)


def per_iteration(clock, lengths, sweep):
    """Seconds of an iteration, or None where the longer sweep ended too early to tell."""
    long, short = lengths
    more = int(sweep(long).count.max()) - short
    return (clock(partial(sweep, long)) - clock(partial(sweep, short))) / more if more > 0 else None


def measure_operations(device, clock, sizes, ceilings):
    kinds = [("float32", None), ("float64", None), *(("float32", d) for d in sizes.dims)]
    for dtype, d in kinds:
        for n in sizes.points:
            problem = Problem(n, dtype, d, device)
            row = {"n": n, "dtype": dtype, "d": d}
            try:
                for operation in operations(problem):
                    is_sweep = operation.name.startswith("sweep")
                    timed = partial(per_iteration, clock, sizes.sweeps) if is_sweep else clock
                    seconds, bound = timed(operation.call), least(problem, operation, ceilings)
                    bytes_ = problem.read + operation.written
                    yield row | {
                        "operation": operation.name,
                        "seconds": seconds,
                        "bytes": bytes_,
                        "exponentials": operation.exponentials,
                        "rate": seconds and n * n * (bytes_ or 1) / seconds,
                        "fraction": seconds and bound / seconds,
                    }
            except torch.OutOfMemoryError:
                yield row | {"operation": "out of memory"}


# Batches


def measure_batches(device, clock, sizes):
    items, n, iterations = sizes.batch
    for dtype in ("float32", "float64"):
        C = torch.rand((items, n, n), dtype=getattr(torch, dtype), device=device)
        about = {"problem": f"{items} of {n}×{n}, {iterations} iterations", "dtype": dtype}
        yield {"call": "sweep", **about, "seconds": clock(swept(C, iterations))}
        yield {"call": "solve", **about, "seconds": clock.wall(partial(solve_batch, C, iterations))}


def solve_batch(C, iterations):
    return solve(C, reg=BATCH_REG, method=Sinkhorn(n_iters=iterations)).potentials


def swept(C, iterations):
    """A call that makes the iterations of `solve_batch`, and nothing else."""
    items, n, _ = C.shape
    zeros = torch.zeros((items, n), dtype=torch.float64, device=C.device)
    log, reg = zeros - math.log(n), zeros[:, 0] + BATCH_REG
    exact = torch.full_like(reg, torch.inf)
    start, penalties = Potentials(zeros, zeros, log, log, reg), Penalties(exact, exact, shifts=False)
    limit = torch.full_like(reg, float(iterations))
    costs, mixing = Reduced(Dense(C), zeros, zeros), Mixing.begin(zeros, reg, 0)
    sweep = choose(costs).sweep
    return lambda: sweep(costs, start, penalties, mixing, -exact, limit, iterations)
