"""otkit beside its peers at the same true marginal error; run ``python benchmarks/compare/plans.py``.

Prints a Markdown table. ``--json FILE`` writes every measurement. How it measures:

- The error is ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ of the dense plan that is returned, recomputed in float64. The time includes the
  forming of the plan, not the conversion of the input to the peer's kind of array.
- otkit has to reach TOL. A peer has to reach ACCEPT, which is looser in float64: its stopping rule is tightened until
  its true error is at most ACCEPT, and the loosest setting tried that reaches it is timed. (POT's own error, for one,
  is not in L1.)
- otkit and the peers within a factor NEAR of the fastest then take turns, ``--repeat`` times. The table shows medians.
- Every library runs in a process of its own. The process is ended where a call takes longer than ``--limit`` and than
  ``--within`` times the time of otkit. The first call, which may compile, is not counted but shown apart.
"""

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, installed, parser, save
from suite.problems import PROBLEMS

from compare.peers import CONFIGS, EXACT
from compare.tables import cells, heading, human, line, mean_of, stored, times
from compare.workers import Pool, Row

TOL = {"float64": 1e-8, "float32": 1e-4}
ACCEPT = {"float64": 1e-6, "float32": 1e-4}
TRIES = 7  # settings of a peer
NEAR = 2
PACKAGES = ("otkit", "POT", "ott-jax", "geomloss", "regot", "numpy", "scipy", "numba", "torch", "jax", "jaxlib")
TITLES = "problem, size, dtype, reg, otkit s, error, iterations, kernel, best peer, s, error, peer / otkit, exact s"
SHOWN = "problem, size, reg, otkit, error, iterations, best peer, its time, its error, ratio, `emd`"


def reached(record, bound):
    return record["status"] == "ok" and record["error"] <= bound


def opening(row, config):
    """The loosest setting of a stopping rule that is tried."""
    return {"threshold": row.accept, "iterations": 50, "nothing": None}[config.knob]


def search(pool, row, config):
    """The record of the loosest setting tried that reaches the error, or of the last where none does."""
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
    calls = {config: partial(pool.measure, row, config, setting) for config, setting in settings.items()}
    records |= {config: summary(found) for config, found in in_turns(calls, args.repeat).items()}
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
    """One record for several rounds: medians, or the first that failed."""
    bad = [record for record in found if record["status"] != "ok"]
    middle = {key: median(record[key] for record in found) for key in ("seconds", "error")} if not bad else {}
    return (*bad, found[-1])[0] | middle | {"rounds": [record.get("seconds") for record in found]}


# What is printed


def header(pool, args):
    """The machine, the versions and the threads. A small problem in every process shows its threads."""
    row = Row("2-D cloud", 200, 0.1, pool.dtype, TOL[pool.dtype], ACCEPT[pool.dtype])
    first = {c.library: c for c in CONFIGS if c.kind == "plan" and pool.dtype in c.dtypes and installed(c.library)}
    used = {library: pool.measure(row, c, opening(row, c)) for library, c in first.items()}
    threads = {library: record.get("threads", record["status"]) or "none found" for library, record in used.items()}
    return described(args, *PACKAGES) | {"threads": threads}


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
    """Print the tables of docs/performance.md from a file of results."""
    groups = stored(path)
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


def arguments():
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000])
    options.add_argument("--regs", type=float, nargs="+", default=[1e-2, 1e-3], help="in units of the largest cost")
    options.add_argument("--dtype", choices=["float64", "float32", "both"], default="float64")
    options.add_argument("--only", default="", metavar="SUBSTRING", help="of the name of a problem")
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--limit", type=float, default=60, help="seconds for one call")
    options.add_argument(
        "--within", type=float, default=0, metavar="TIMES", help="where this is longer: as many times the time of otkit"
    )
    options.add_argument("--digits", metavar="FILE.npz", help="images to take instead of scikit-learn's")
    options.add_argument("--all", action="store_true", help="show every configuration")
    options.add_argument("--show", metavar="FILE", help="print the tables of the documentation, and measure nothing")
    return options.parse_args()


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
            versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
            threads = "; ".join(f"{library}: {pools}" for library, pools in about["threads"].items())
            print(f"{about['machine']}\n\n{versions}\n\nThreads: {threads}\n")
            heading(TITLES)
        for row in problems(args, dtype):
            rows.append(compare(pool, row, args))
            print_row(rows[-1], args.all)
            save(args.json, about | {"rows": rows})
        for library in list(pool.workers):
            pool.end(library)
    print_summary(rows)
    return None


if __name__ == "__main__":
    main()
