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
from otkit.kernels.triton.launch import DOUBLE, MIXED, SINGLE
from otkit.kernels.triton.sweep import begin, iteration

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


class Endless:
    """Calls enqueue an iteration of a sweep that nothing ends, and no call waits for the device."""

    def __init__(self, costs, at, precision):
        exact = torch.full_like(at.reg, torch.inf)
        mixing = Mixing.begin(at.g, torch.ones_like(at.reg))
        self.state = begin(costs, at, Penalties(exact, exact), mixing, -exact, exact)
        self.once, self.calls = iteration(self.state, costs, 1, precision), 0

    def __call__(self):
        self.calls += 1
        self.once()

    def check(self):
        """Raise ``RuntimeError`` unless every call was an iteration: others take less time, or had to be repeated."""
        counted = int(self.state.count.max())
        if counted != self.calls:
            raise RuntimeError(f"{self.calls} calls must be as many iterations, got {counted}; choose a larger reg")


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

    for form, precision in {"single": SINGLE, "mixed": MIXED, "double": DOUBLE}.items():
        if form != "single" or (problem.d is None and problem.dtype == "float32"):
            exponentials = "float64" if form == "double" else "float32"
            yield Operation(f"sweep iteration, {form}", Endless(costs, at, precision), exponentials)


def least(problem, operation, ceilings):
    """The least time of an operation in seconds, by the ceilings."""
    entries = problem.n**2
    bound = [entries * (problem.read + operation.written) / ceilings["copy, B/s"]]
    if operation.exponentials != "none":
        bound.append(entries / ceilings[f"{operation.exponentials} exponentials/s"])
    if problem.d:
        bound.append(entries * 2 * problem.d / ceilings["float64 additions/s"])
    return max(bound)


def seconds_of(clock, warm, call):
    """Seconds of a call; of an iteration of a sweep, after as many that fill the window of its mixing."""
    if not isinstance(call, Endless):
        return clock(call)
    for _ in range(warm):
        call()
    seconds = clock(call)
    call.check()
    return seconds


def failed(error):
    """What a row says of an error in place of its measurement."""
    return {"status": f"failed: {type(error).__name__}: {error}"[:200]}


def measure_operations(device, clock, sizes, ceilings):
    kinds = [("float32", None), ("float64", None), *(("float32", d) for d in sizes.dims)]
    for dtype, d in kinds:
        for n in sizes.points:
            problem = Problem(n, dtype, d, device)
            row = {"n": n, "dtype": dtype, "d": d}
            try:
                for operation in operations(problem):
                    yield row | {"operation": operation.name} | measured(clock, sizes, ceilings, problem, operation)
            except Exception as error:  # of what all operations have in common
                yield row | {"operation": "all"} | failed(error)


def measured(clock, sizes, ceilings, problem, operation):
    """The measurement of an operation, or its error: the others go on."""
    try:
        seconds = seconds_of(clock, sizes.warm, operation.call)
    except Exception as error:
        return failed(error)
    bytes_ = problem.read + operation.written
    return {
        "status": "ok",
        "seconds": seconds,
        "bytes": bytes_,
        "exponentials": operation.exponentials,
        "rate": problem.n**2 * (bytes_ or 1) / seconds,
        "fraction": least(problem, operation, ceilings) / seconds,
    }


# Batches


def measure_batches(device, clock, sizes):
    items, n, iterations = sizes.batch
    for dtype in ("float32", "float64"):
        about = {"problem": f"{items} of {n}×{n}, {iterations} iterations", "dtype": dtype}
        for call in ("sweep", "solve"):
            try:
                C = torch.rand((items, n, n), dtype=getattr(torch, dtype), device=device)
                if call == "sweep":
                    seconds = clock(swept(C, iterations))
                else:
                    seconds = clock.wall(partial(solve_batch, C, iterations))
                yield {"call": call, **about, "status": "ok", "seconds": seconds}
            except Exception as error:
                yield {"call": call, **about} | failed(error)


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
