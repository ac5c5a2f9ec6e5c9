"""otkit beside its peers at the same true marginal error; run ``python benchmarks/compare/plans.py``.

Prints a Markdown table and, with ``--json FILE``, writes every measurement. How it measures:

- The error is ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ of the dense plan that came back, recomputed in float64. The time includes
  the forming of the plan, not the conversion of the input to the peer's kind of array.
- otkit has to reach TOL. The stopping rule of every peer is tightened until its true error is at most ACCEPT, which is
  looser in float64, and the loosest setting tried that gets there is timed. (POT's own error, for one, is not in L1.)
- otkit and the peers within a factor NEAR of the fastest then take turns, ``--repeat`` times; the table shows medians.
- Every library runs in a process of its own, which is ended where a call takes longer than ``--limit``, and than
  ``--within`` times what otkit takes. The first call, which may compile, is not counted but shown apart.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from suite.problems import costs

PROBLEMS = (
    "2-D cloud",
    "64-D cloud",
    "uniform costs",
    "digits, L1",
    "digits, squared L2",
    "fields, L1",
    "fields, squared L2",
)
TOL = {"float64": 1e-8, "float32": 1e-4}
ACCEPT = {"float64": 1e-6, "float32": 1e-4}
CAP = 100_000  # iterations
TRIES = 7  # settings of a peer
NEAR = 2
WAIT = 120  # seconds for a process to start, import and compile
PACKAGES = ("otkit", "POT", "ott-jax", "geomloss", "regot", "numpy", "scipy", "numba", "torch", "jax", "jaxlib")
TITLES = "problem, size, dtype, reg, otkit s, error, iterations, kernel, best peer, s, error, peer / otkit, exact s"
SHOWN = "problem, size, reg, otkit, error, iterations, best peer, its time, its error, ratio, `emd`"


@dataclass(frozen=True)
class Row:
    """A problem: one "plan", a "batch" of 1000, or "calls" of 100 iterations each, whatever the error."""

    problem: str
    n: int
    reg: float
    dtype: str
    tol: float
    accept: float
    kind: str = "plan"
    file: str | None = None

    def build(self):
        if self.kind == "plan":
            return [x.astype(self.dtype) for x in costs(self.problem, self.n, self.file)]
        C = np.random.default_rng(0).random((1000, self.n, self.n) if self.kind == "batch" else (self.n, self.n))
        return C, np.full(C.shape[:-1], 1 / self.n), np.full(C.shape[:-1], 1 / self.n)


# The libraries. Each function runs in the process of its library and returns how to convert an input, and the solver:
# costs, weights, row, setting → a plan, or an object that has one.


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


# In the process of a library


def serve(connection, dtype):
    os.environ["JAX_ENABLE_X64"] = str(dtype == "float64")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some libraries greet
    warnings.simplefilter("ignore")
    while True:
        try:
            connection.send(measure(*connection.recv()))
        except EOFError:
            return
        except Exception as error:
            connection.send({"status": f"failed: {type(error).__name__}: {error}"[:60]})


@cache
def prepared(config):
    return config.make()


@lru_cache(maxsize=1)
def built(row):
    return row.build()


def measure(row, config, setting):
    """One call, timed: the median of several where it is short."""
    C, a, b = built(row)
    convert, solve = prepared(config)
    native = [convert(x) for x in (C, a, b)]
    times = []
    while sum(times) < 0.1 or (len(times) < 3 and sum(times) < 1):
        start = time.perf_counter()
        answer = solve(*native, row, setting)
        plan = np.asarray(getattr(answer, "plan", answer))
        times.append(time.perf_counter() - start)
    plan = plan.astype(float)
    record = {"status": "ok" if np.isfinite(plan).all() else "failed: not finite", "setting": setting}
    record |= {"seconds": median(times), "first": times[0], "threads": threads(), "cost": float((plan * C).sum())}
    record["error"] = float((abs(plan.sum(-1) - a).sum(-1) + abs(plan.sum(-2) - b).sum(-1)).max())
    record |= {"size": "×".join(map(str, C.shape)), "kernel": getattr(answer, "kernel", "–")}
    return record | {"iterations": int(np.max(getattr(answer, "n_iter", 0)))}


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def threads():
    """How many threads each pool of this process has."""
    from threadpoolctl import threadpool_info

    found = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
    found |= {name: sys.modules[name].get_num_threads() for name in ("torch", "numba") if name in sys.modules}
    found |= {"XLA": cores()} if "jax" in sys.modules else {}
    return ", ".join(f"{name} {count}" for name, count in found.items())


# In the process that asks


class Pool:
    """A process for every library, in one dtype."""

    def __init__(self, dtype, limit):
        self.dtype, self.limit, self.workers, self.first = dtype, limit, {}, {}

    @property
    def late(self):
        return f"> {self.limit:.3g}"

    def measure(self, row, config, setting):
        key = config.library, config, row
        if key not in self.first:
            loose = {"threshold": 1e9, "iterations": 1, "nothing": None}[config.knob]
            self.first[key] = self._ask((row, config, loose), self.limit + WAIT)
        if config.knob == "nothing" and self.first[key]["status"] != "ok":
            return self.first[key]
        first = self.first[key].get("first")
        reply = self._ask((row, config, setting), self.limit + 1)
        return reply | {"first": first} | ({"status": self.late} if reply.get("seconds", 0) > self.limit else {})

    def _ask(self, job, patience):
        library = job[1].library
        if library not in self.workers:
            here, there = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, self.dtype), daemon=True)
            process.start()
            there.close()
            self.workers[library] = process, here
        connection = self.workers[library][1]
        try:
            connection.send(job)
            if connection.poll(patience):
                return connection.recv()
            status = self.late
        except (OSError, EOFError):
            status = "failed: the process died"
        self.end(library)
        return {"status": status, "setting": job[2]}

    def end(self, library):
        process, connection = self.workers.pop(library)
        process.kill()
        process.join()
        connection.close()
        self.first = {key: value for key, value in self.first.items() if key[0] != library}


def reached(record, bound):
    return record["status"] == "ok" and record["error"] <= bound


def opening(row, config):
    return {"threshold": row.accept, "iterations": 50, "nothing": None}[config.knob]


def search(pool, row, config):
    """The record of the loosest setting tried that reaches the error; where none does, of the last."""
    setting, best, stalls = opening(row, config), np.inf, 0
    for _ in range(TRIES):
        record = pool.measure(row, config, setting)
        if record["status"] != "ok" or reached(record, row.accept):
            return record
        stalled = record["error"] > 0.9 * best
        stalls, best = stalls + stalled, min(best, record["error"])
        slow = config.knob == "iterations" and 4 * record["seconds"] > pool.limit
        if config.knob == "nothing" or stalls > 1 or slow:
            break
        tighter = 0.1 if stalled else min(max(0.9 * row.accept / best, 0.01), 0.5)
        setting = setting * (4 if config.knob == "iterations" else tighter)
    return record | {"status": f"only {record['error']:.0e}"}


def compare(pool, row, args):
    """Everything measured for one problem: otkit, every configuration of the peers, and the best of these."""
    ours, *peers = [c for c in CONFIGS if c.kind == row.kind and row.dtype in c.dtypes and installed(c.library)]
    pool.limit = args.limit
    pool.limit = max(args.limit, args.within * pool.measure(row, ours, None).get("seconds", 0))
    records = {config: search(pool, row, config) for config in peers}
    able = {config: records[config]["seconds"] for config in peers if reached(records[config], row.accept)}
    ranked = sorted(able, key=able.get)
    finalists = ranked[:2] + [config for config in ranked[2:] if able[config] <= NEAR * able[ranked[0]]]
    settings = {ours: None} | {config: records[config]["setting"] for config in finalists}
    rounds = [[pool.measure(row, config, setting) for config, setting in settings.items()] for _ in range(args.repeat)]
    records |= {config: summary(found) for config, found in zip(settings, zip(*rounds, strict=True), strict=True)}
    mine = records.pop(ours)
    if mine["status"] == "ok" and not reached(mine, row.tol):
        mine["status"] = f"only {mine['error']:.0e}"
    good = {f"{c.library} {c.name}": records[c]["seconds"] for c in finalists if reached(records[c], row.accept)}
    best = min(good, key=good.get, default=None)
    ratio = good[best] / mine["seconds"] if best and mine["status"] == "ok" else None
    exact = pool.measure(row, EXACT, None) if row.kind == "plan" and installed("POT") else {}
    found = {"limit": pool.limit, "otkit": mine, "best": best, "ratio": ratio}
    found["lost"] = mine["status"] != "ok" or (ratio or np.inf) < 1
    return asdict(row) | found | {"exact": exact, "peers": {f"{c.library} {c.name}": r for c, r in records.items()}}


def summary(found):
    """One record for several rounds: medians, or the first that went wrong."""
    bad = [record for record in found if record["status"] != "ok"]
    middle = {key: median(record[key] for record in found) for key in ("seconds", "error")} if not bad else {}
    return (*bad, found[-1])[0] | middle | {"rounds": [record.get("seconds") for record in found]}


# What is printed


def installed(library):
    try:
        return bool(version(library))
    except PackageNotFoundError:
        return False


def header(pool, args):
    """The machine, the versions and the threads, which a small problem in every process tells."""
    row = Row("2-D cloud", 200, 0.1, pool.dtype, TOL[pool.dtype], ACCEPT[pool.dtype])
    first = {c.library: c for c in CONFIGS if c.kind == "plan" and pool.dtype in c.dtypes and installed(c.library)}
    used = {library: pool.measure(row, c, opening(row, c)) for library, c in first.items()}
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = info.partition("model name")[2].partition("\n")[0].strip("\t :") or platform.processor()
    return {
        "machine": f"{model}, {cores()} cores, {platform.system()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES if installed(name)),
        "threads": "; ".join(f"{name}: {r.get('threads', r['status']) or 'none found'}" for name, r in used.items()),
        "arguments": vars(args),
    }


def cells(record):
    seconds = f"{record['seconds']:.3g}" if record.get("status") == "ok" else record.get("status", "–")
    return seconds, f"{record['error']:.0e}" if "error" in record else "–"


def times(row):
    return f"{row['ratio']:.2f}" if row["ratio"] else "–"


def line(*texts):
    print("|", " | ".join(str(text) for text in texts), "|", flush=True)


def heading(titles):
    titles = titles.split(", ")
    line(*titles)
    line(*["---"] * len(titles))


def mean_of(ratios):
    """The geometric mean of those that are known, and how many they are."""
    good = [ratio for ratio in ratios if ratio]
    return f"{geometric_mean(good):.2f}" if good else "–", f"{len(good)} of {len(ratios)}"


def print_row(row, everything):
    ours, best = row["otkit"], row["peers"].get(row["best"], {})
    what = row["problem"], ours.get("size", row["n"]), row["dtype"], f"{row['reg']:g}"
    how = ours.get("iterations", "–"), ours.get("kernel", "–")
    line(*what, *cells(ours), *how, row["best"] or "none", *cells(best), times(row), cells(row["exact"])[0])
    for name, record in row["peers"].items() if everything else ():
        line(*[""] * 8, name, *cells(record), f"setting {record.get('setting') or 0:.2g}", "")


def print_summary(rows):
    print("\nGeometric means of peer / otkit, over the rows where both reached their errors:\n")
    groups = {}
    for row in rows:
        key = f"reg {row['reg']:g}, {row['dtype']}" if row["kind"] == "plan" else row["problem"]
        groups.setdefault(key, []).append(row["ratio"])
    for key, ratios in groups.items():
        mean, count = mean_of(ratios)
        print(f"- {key}: {mean} ({count} rows)")
    print(f"\nRows lost: {sum(row['lost'] for row in rows)} of {len(rows)}\n")
    for row in (row for row in rows if row["lost"]):
        print(f"- {row['problem']}, {row['n']}, {row['dtype']}, reg {row['reg']:g}, to {row['best'] or 'none'}")
    print("\nFirst calls, with what they compile (otkit's is a whole solve), the longest, in s:\n")
    first = [(name, r.get("first") or 0) for row in rows for name, r in {"otkit": row["otkit"], **row["peers"]}.items()]
    print(", ".join(f"{name} {max(t for other, t in first if other == name):.2g}" for name in dict(first)))


def show(path):
    """The tables of docs/performance.md, from what was measured."""
    runs = json.loads(Path(path).read_text())["runs"]
    groups = {}
    for row in (row for run in runs for row in run["rows"] if row["kind"] == "plan"):
        groups.setdefault((row["dtype"], row["n"]), []).append(row)
    for (dtype, n), rows in groups.items():
        print(f"\n### {dtype}, about {n} points\n")
        heading(SHOWN)
        for row in sorted(rows, key=lambda row: (PROBLEMS.index(row["problem"]), row["reg"])):
            ours, best = row["otkit"], row["peers"].get(row["best"], {})
            if row["best"]:
                peer = row["best"], human(best.get("seconds")), cells(best)[1], times(row)
            else:
                peer = f"none within {human(row['limit'])}", "–", "–", f"> {int(row['limit'] / ours['seconds'])}"
            exact = human(row["exact"].get("seconds")) if row["exact"].get("status") == "ok" else "–"
            what = row["problem"], ours["size"], f"{row['reg']:g}", human(ours["seconds"]), cells(ours)[1]
            line(*what, ours["iterations"], *peer, exact)
    print()
    heading("dtype, size, reg, mean ratio, rows, rows won")
    for (dtype, n), rows in groups.items():
        for reg in sorted({row["reg"] for row in rows}, reverse=True):
            here = [row for row in rows if row["reg"] == reg]
            won = sum(not row["lost"] for row in here)
            line(dtype, f"about {n}", f"{reg:g}", *mean_of([row["ratio"] for row in here]), won)


def human(seconds):
    return "–" if seconds is None else f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--regs", type=float, nargs="+", default=[1e-2, 1e-3], help="in units of the largest cost")
    parser.add_argument("--dtype", choices=["float64", "float32", "both"], default="float64")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="of the name of a problem")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60, help="seconds for one call")
    parser.add_argument(
        "--within", type=float, default=0, metavar="TIMES", help="where this is longer: as many times what otkit takes"
    )
    parser.add_argument("--digits", metavar="FILE.npz", help="images to take instead of scikit-learn's")
    parser.add_argument("--all", action="store_true", help="show every configuration")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--show", metavar="FILE", help="print the tables of the documentation, and measure nothing")
    return parser.parse_args()


def problems(args, dtype):
    bounds = dtype, TOL[dtype], ACCEPT[dtype]
    rows = [Row(p, n, reg, *bounds, file=args.digits) for p in PROBLEMS for n in args.sizes for reg in args.regs]
    if dtype == "float64":
        rows.append(Row("batch of uniform costs", 32, 0.02, dtype, 1e-6, 1e-6, "batch"))
        rows.append(Row("100 iterations", 20, 0.1, dtype, np.inf, np.inf, "calls"))
    return [row for row in rows if args.only in row.problem]


def main():
    args = arguments()
    if args.show:
        return show(args.show)
    about, rows = {}, []
    for dtype in ("float64", "float32") if args.dtype == "both" else (args.dtype,):
        pool = Pool(dtype, args.limit)
        if not about:
            about = header(pool, args)
            print(f"{about['machine']}\n\n{about['versions']}\n\nThreads: {about['threads']}\n")
            heading(TITLES)
        for row in problems(args, dtype):
            rows.append(compare(pool, row, args))
            print_row(rows[-1], args.all)
            if args.json:
                Path(args.json).write_text(json.dumps(about | {"rows": rows}, indent=1))
        for library in list(pool.workers):
            pool.end(library)
    print_summary(rows)
    return None


if __name__ == "__main__":
    main()
