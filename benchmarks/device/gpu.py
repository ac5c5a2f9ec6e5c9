"""otkit on a GPU, beside what the GPU can do and beside other libraries; run ``python benchmarks/device/gpu.py``.

Prints Markdown tables and, with ``--json FILE``, writes every measurement. How it measures:

- Ceilings are measured first: a copy, exponentials, float64 additions, products of matrices.
- Of an operation it says how many bytes, exponentials and float64 additions per entry it cannot do without, from which
  the ceilings give a time that it cannot beat. The fraction is that time over the one measured, the median of several
  by the clock of the device. Problems that the cache of the device holds may come out above 1.
- An iteration of a sweep is the difference of a long sweep and a short one, over their iterations.
- Solves are timed by the clock of the host, from call to answer, and their true error ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ is
  recomputed in float64. The stopping rule of every library is tightened until that is at most ACCEPT, and the loosest
  setting tried that gets there is timed. A dense problem ends with the plan, one of points with the potentials.
- At the end stands what was predicted before anything was measured.

Without a GPU it does nothing. ``--rehearse`` goes through the same code at tiny sizes in Triton's interpreter: that it
runs is all that this shows, and its times mean nothing.
"""

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

ACCEPT = {"float64": 1e-6, "float32": 1e-4}
LIMIT = 30  # seconds of a solve, after which no tighter setting is tried
DELAY = 2_000_000  # cycles that the device waits, so that the host is ahead of it when the clock starts
PACKAGES = ("otkit", "torch", "triton", "numpy", "pot", "geomloss", "pykeops", "flash-sinkhorn", "curegot")


@dataclass(frozen=True)
class Sizes:
    points: tuple = (1000, 4096, 10_000, 32_768)
    dims: tuple = (3, 16, 64)
    solved: tuple = (1000, 4096, 10_000)
    regs: tuple = (1e-2, 1e-3)
    sweeps: tuple = (34, 2)  # iterations of the two that are compared
    batch: tuple = (100_000, 32, 50)  # problems, points, iterations
    repeat: int = 20
    small: bool = False


QUICK = Sizes(points=(1000, 10_000), dims=(3, 64), solved=(1000,), repeat=5)
REHEARSAL = Sizes((24,), (3,), (12,), (0.3,), (3, 1), (3, 8, 4), repeat=1, small=True)


@dataclass(frozen=True)
class Clock:
    """Seconds of a call on a device, the median of `repeat` after warming up."""

    device: str
    repeat: int

    def __call__(self, call):
        """By the clock of the device; what the host does meanwhile is hidden as long as it need not wait."""
        import torch

        if self.device == "cpu":
            return self.wall(call)
        call()
        times = []
        for _ in range(self.repeat):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(DELAY)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return median(times)

    def wall(self, call):
        """From the call to when the device is done, by the clock of the host."""
        call()
        return median(self.once(call)[1] for _ in range(self.repeat))

    def once(self, call):
        """What the call returns, and how long it took."""
        self.wait()
        start = time.perf_counter()
        answer = call()
        self.wait()
        return answer, time.perf_counter() - start

    def wait(self):
        import torch

        if self.device != "cpu":
            torch.cuda.synchronize()


# Operations


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
        import torch

        from otkit.geometry import Dense, PointCloud

        kind, generator = getattr(torch, self.dtype), torch.Generator(self.device).manual_seed(0)

        def random(*shape):
            return torch.rand((1, *shape), dtype=kind, device=self.device, generator=generator)

        if self.d is None:
            return Dense(random(rows, self.n))
        return PointCloud(random(rows, self.d), random(self.n, self.d)).flat((1,))

    def state(self, rows):
        """The first rows of the costs, reduced by 0, and potentials with which those rows are exact."""
        import torch

        from otkit import kernels
        from otkit.geometry.base import Potentials, Reduced

        def full(value, *size):
            return torch.full((1, *size), value, dtype=torch.float64, device=self.device)

        costs = Reduced(self.geometry(rows), full(0.0, rows), full(0.0, self.n))
        log_a, log_b = full(-math.log(rows), rows), full(-math.log(self.n), self.n)
        g, reg = full(0.0, self.n), full(0.01 * (self.d or 1))
        return costs, Potentials(kernels.softmin(costs, g, log_b, reg), g, log_a, log_b, reg)

    def threshold(self):
        """The log of an entry that about ten in a row are above, by the first rows."""
        from otkit import kernels

        rows = min(self.n, 64)
        some = kernels.plan(*self.state(rows)).flatten()[: 2**20]
        return math.log(float(some.quantile(1 - min(0.5, 10 / self.n)))) - math.log(self.n / rows)


def operations(problem):
    import torch

    from otkit import kernels
    from otkit.geometry.base import Penalties
    from otkit.kernels import Mixing

    costs, at = problem.state(problem.n)
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
    # From a tolerance of 1e-5 on exponentials are single; and differences too, where the range of the costs, which is
    # also how far mixing may reach, is small enough beside reg.
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
    """Seconds that the operation takes at least by the ceilings."""
    entries = problem.n**2
    bound = [entries * (problem.read + operation.written) / ceilings["copy, B/s"]]
    if operation.exponentials != "none":
        bound.append(entries / ceilings[f"{operation.exponentials} exponentials/s"])
    if problem.d:
        bound.append(entries * 2 * problem.d / ceilings["float64 additions/s"])
    return max(bound)


def per_iteration(clock, lengths, sweep):
    """Seconds of an iteration, or None where the longer sweep found its end too early to tell."""
    long, short = lengths
    more = int(sweep(long).count.max()) - short
    return (clock(partial(sweep, long)) - clock(partial(sweep, short))) / more if more > 0 else None


def measure_operations(device, clock, sizes, ceilings):
    import torch

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
    import torch

    items, n, iterations = sizes.batch
    for dtype in ("float32", "float64"):
        C = torch.rand((items, n, n), dtype=getattr(torch, dtype), device=device)
        about = {"problem": f"{items} of {n}×{n}, {iterations} iterations", "dtype": dtype}
        yield {"call": "sweep", **about, "seconds": clock(swept(C, iterations))}
        yield {"call": "solve", **about, "seconds": clock.wall(partial(solve_batch, C, iterations))}


BATCH_REG = 0.1


def solve_batch(C, iterations):
    from otkit import Sinkhorn, solve

    return solve(C, reg=BATCH_REG, method=Sinkhorn(n_iters=iterations)).potentials


def swept(C, iterations):
    """The iterations of such a solve, and nothing else."""
    import torch

    from otkit import kernels
    from otkit.geometry import Dense
    from otkit.geometry.base import Penalties, Potentials, Reduced
    from otkit.kernels import Mixing

    items, n, _ = C.shape
    zeros = torch.zeros((items, n), dtype=torch.float64, device=C.device)
    log, reg = zeros - math.log(n), zeros[:, 0] + BATCH_REG
    exact = torch.full_like(reg, torch.inf)
    start, penalties = Potentials(zeros, zeros, log, log, reg), Penalties(exact, exact, shifts=False)
    limit = torch.full_like(reg, float(iterations))
    costs, mixing = Reduced(Dense(C), zeros, zeros), Mixing.begin(zeros, reg, 0)
    return lambda: kernels.sweep(costs, start, penalties, mixing, -exact, limit, iterations)


# Solves beside peers. Each returns potentials (f, g) or a plan, of costs or points x and y in the array of the problem.


def ours(case, tol):
    import otkit

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
    """A solver with the settings of its stopping rule, the loosest first, and what it takes."""

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
        import torch

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
        import torch

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
    import torch

    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2


def available(package):
    """Whether a package can be imported; some fail on a machine without the right libraries."""
    try:
        import_module(package)
    except Exception:
        return False
    return True


def solved(clock, case, solver):
    """The record of the loosest setting that comes to the error, or of the last that was tried."""
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


# Predictions


def predictions(found, sizes):
    """What was expected before anything was measured, and what came."""

    def sweep(form):
        return next(
            (
                row
                for row in found["operations"]
                if row["operation"] == f"sweep iteration, {form}"
                and row["dtype"] == "float32"
                and row["d"] is None
                and row["n"] == 10_000
            ),
            {},
        )

    single, mixed = sweep("single"), sweep("mixed")
    yield "sweep at n = 10,000, share of the copy", single.get("fraction"), "≥ 0.75", lambda v: v >= 0.75
    slower = mixed["seconds"] / single["seconds"] if mixed.get("seconds") and single.get("seconds") else None
    yield "sweep with float64 differences, over single", slower, "≤ 1.3", lambda v: v <= 1.3
    batch = next((row["seconds"] for row in found["batches"] if row["call"] == "sweep"), None)
    full = batch if sizes.batch == Sizes().batch else None
    yield "100,000 problems of 32×32, 50 iterations, s", full, "< 0.005", lambda v: v < 0.005


# What is printed


def number(value, digits=3):
    return "–" if value is None else f"{value:.{digits}g}"


def table(titles, rows):
    """Print a Markdown table as its rows come, and return what they hold."""
    print("\n|", " | ".join(titles), "|", flush=True)
    print("|", " | ".join("---" for _ in titles), "|", flush=True)
    kept = []
    for row, cells in rows:
        print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)
        kept.append(row)
    return kept


def kind(row):
    return f"{row['dtype']}, " + (f"points, d = {row['d']}" if row["d"] else "dense")


def operation_cells(row):
    what = row["operation"], kind(row), row["n"]
    if "seconds" not in row:
        return *what, *["–"] * 5
    unit = "GB/s" if row["bytes"] else "G entries/s"
    rate = f"{row['rate'] / 1e9:.4g} {unit}" if row["rate"] else "–"
    milliseconds = number(row["seconds"] and 1e3 * row["seconds"])
    return *what, milliseconds, row["bytes"], row["exponentials"], rate, number(row["fraction"], 2)


def solve_cells(row):
    seconds = number(1e3 * row["seconds"]) if "seconds" in row else row["status"]
    return row["solver"], kind(row), row["n"], row["reg"], seconds, number(row.get("error"), 1), row.get("setting", "–")


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def about(device, args):
    import torch

    from otkit import kernels
    from otkit.geometry import Dense

    found = {"command": shlex.join(sys.argv), "arguments": vars(args), "python": platform.python_version()}
    found["kernels"] = kernels.runs_on(Dense(torch.zeros((1, 1), device=device)))
    found["versions"] = {name: installed(name) for name in PACKAGES if installed(name)} | {"cuda": torch.version.cuda}
    if device == "cpu":
        return found | {"device": "Triton's interpreter on the host: no time means anything"}
    properties = torch.cuda.get_device_properties(0)
    capability = f"sm_{properties.major}{properties.minor}"
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return found | {"device": f"{properties.name}, {capability}, {properties.multi_processor_count} SMs, {memory}"}


def measure(device, sizes, args):
    clock, found = Clock(device, sizes.repeat), about(device, args)

    def keep(name, rows):
        found[name] = rows
        if args.json:  # after every part, so that little is lost where a later one fails
            Path(args.json).write_text(json.dumps(found, indent=1) + "\n")

    from ceilings import measured

    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    print(found["device"], versions, f"otkit's operations: {found['kernels']}", sep="\n\n")
    keep("ceilings", measured(device, clock, sizes.small))
    table(("ceiling", "rate"), ((None, (name, f"{rate:.4g}")) for name, rate in found["ceilings"].items()))
    rows = measure_operations(device, clock, sizes, found["ceilings"])
    titles = "operation", "costs", "n", "ms", "bytes/entry", "exponential", "rate", "fraction"
    keep("operations", table(titles, ((row, operation_cells(row)) for row in rows)))
    rows = measure_batches(device, clock, sizes)
    cells = ((row, (row["call"], row["problem"], row["dtype"], number(1e3 * row["seconds"]))) for row in rows)
    keep("batches", table(("call", "batch", "dtype", "ms"), cells))
    rows = measure_solves(device, clock, sizes)
    titles = "solver", "costs", "n", "reg", "ms", "error", "setting"
    keep("solves", table(titles, ((row, solve_cells(row)) for row in rows)))
    rows = [
        {"prediction": what, "measured": value, "bound": bound, "met": None if value is None else bool(holds(value))}
        for what, value, bound, holds in predictions(found, sizes)
    ]
    cells = ((row, (row["prediction"], row["bound"], number(row["measured"]), verdict(row["met"]))) for row in rows)
    keep("predictions", table(("prediction", "bound", "measured", "met"), cells))


def verdict(met):
    return {None: "not measured", True: "yes", False: "no"}[met]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes in Triton's interpreter, on the host")
    return parser.parse_args()


def main():
    args = arguments()
    if args.rehearse:
        os.environ.update(TRITON_INTERPRET="1", OTKIT_KERNELS="triton")  # before Triton is imported
        print("A rehearsal: its times mean nothing.\n")
        return measure("cpu", REHEARSAL, args)
    import torch

    if not torch.cuda.is_available():
        print("benchmarks/device/gpu.py needs a GPU that PyTorch can use; --rehearse does without.", file=sys.stderr)
        return 2
    return measure("cuda", QUICK if args.quick else Sizes(), args)


if __name__ == "__main__":
    sys.exit(main())
