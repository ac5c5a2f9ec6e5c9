"""Gradients of entropic losses beside peers, at the same true error; run ``python benchmarks/compare/gradients.py``.

Prints a Markdown table: medians of the time of a loss between two clouds in the plane and its gradient by the points of
the first, forward and backward together. The gradient of every library is held against one at a tolerance of 1e-12.
otkit and its peers have to come within ACCEPT, relative in L2: the loosest setting tried that does is timed, in turns.
Peers that do not come there within the limit of a call are left out, and the table says so.
"""

import argparse
import json
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean, median

import torch

ACCEPT = 0.05
DTYPES = ("float64", "float32")
# Loss, batch, points, regularisation in units of the largest cost.
ROWS = [
    (loss, batch, n, reg)
    for loss in ("cost", "divergence")
    for batch, n in ((None, 500), (None, 1000), (None, 2000), (16, 500))
    for reg in (1e-2, 1e-3)
]


def otkit(loss, reg, tol, x, y):
    from otkit.losses import SinkhornLoss

    return SinkhornLoss(reg, debias=loss == "divergence", reduction="sum", tol=tol)(x, y)


def geomloss(loss, reg, scaling, x, y):
    from geomloss import SamplesLoss

    # Its cost is half the squared distance.
    options = dict(p=2, blur=(reg / 2) ** 0.5, debias=loss == "divergence", scaling=scaling)
    return 2 * SamplesLoss("sinkhorn", backend="tensorized", **options)(x, y).sum()


def pot(grad, loss, reg, tol, x, y):
    import ot

    def cost(x, y):
        return ot.solve(ot.dist(x, y), reg=reg, grad=grad, max_iter=5000, tol=tol).value

    def one(x, y):
        return cost(x, y) - (cost(x, x) + cost(y, y)) / 2 if loss == "divergence" else cost(x, y)

    return one(x, y) if x.ndim == 2 else sum(one(u, v) for u, v in zip(x, y, strict=True))


THRESHOLDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
PEERS = {
    "GeomLoss": (geomloss, (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)),
    "POT envelope": (partial(pot, "envelope"), THRESHOLDS),
    "POT last step": (partial(pot, "last_step"), THRESHOLDS),
}


def clouds(batch, n, dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (n, 2) if batch is None else (batch, n, 2)
    x, y = (torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return x, y


def gradient(call, x, y):
    """The gradient, and how long it took."""
    x = x.clone().requires_grad_()
    start = time.perf_counter()
    call(x, y).backward()
    return x.grad, time.perf_counter() - start


def settled(call, settings, x, y, wanted, limit):
    """The loosest setting that comes within ACCEPT, or why there is none."""
    why = "not reached"
    for setting in settings:
        found, seconds = gradient(partial(call, setting), x, y)
        error = float((found - wanted).norm() / wanted.norm())
        if error <= ACCEPT:
            return setting, error
        why = f"only {error:.0e}"
        if seconds > limit:
            return None, f"{why} in {seconds:.0f} s"
    return None, why


def measure(row, dtype, args):
    loss, batch, n, relative = row
    x, y = clouds(batch, n, dtype)
    reg = relative * float(((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1).max())
    exact = partial(otkit, loss, reg, 1e-12)
    wanted = gradient(exact, x.double(), y.double())[0].to(dtype)
    calls = {"otkit": (otkit, THRESHOLDS), **PEERS}
    chosen, record = {}, {}
    for name, (call, settings) in calls.items():
        setting, error = settled(partial(call, loss, reg), settings, x, y, wanted, args.limit)
        record[name] = {"setting": setting, "error": error}
        if setting is not None:
            chosen[name] = partial(call, loss, reg, setting)
    times = {name: [] for name in chosen}
    for _ in range(args.repeat):
        for name, call in chosen.items():
            times[name].append(gradient(call, x, y)[1])
    for name, found in times.items():
        record[name]["seconds"] = found
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds of a call, after which no other is tried")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| loss | size | dtype | reg | otkit ms | error | best peer | ms | error | peer / otkit |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows, ratios = [], []
    for dtype in args.dtypes:
        for row in ROWS:
            record = measure(row, getattr(torch, dtype), args)
            rows.append({"row": row, "dtype": dtype, "found": record})
            ours, *_ = (median(record[name].get("seconds", [float("nan")])) for name in record)
            able = {name: median(r["seconds"]) for name, r in record.items() if "seconds" in r and name != "otkit"}
            best = min(able, key=able.get, default=None)
            peer = (best, f"{1e3 * able[best]:.3g}", f"{record[best]['error']:.0e}") if best else ("none", "", "")
            ratio = able[best] / ours if best else None
            ratios += [ratio] if ratio else []
            size = f"{row[2]}×{row[2]}" if row[1] is None else f"{row[1]} of {row[2]}×{row[2]}"
            mine = f"{1e3 * ours:.3g}", f"{record['otkit']['error']:.0e}"
            cells = row[0], size, dtype, f"{row[3]:g}", *mine, *peer, f"{ratio:.2f}" if ratio else "–"
            print("", *cells, "", sep=" | ", flush=True)
    print(f"\nGeometric mean of the ratios {geometric_mean(ratios):.2f}, smallest {min(ratios):.2f}")
    if args.json:
        versions = {name: version(name) for name in ("otkit", "torch", "pot", "geomloss", "numba")}
        content = {"arguments": vars(args), "versions": versions, "rows": rows}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
