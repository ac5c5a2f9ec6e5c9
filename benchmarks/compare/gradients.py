"""Gradients of entropic losses beside peers, at the same true error; run ``python benchmarks/compare/gradients.py``.

Prints a Markdown table: medians of the time of a forward and a backward pass together. The loss is one between two
clouds in the plane, and its gradient is by the points of the first. The gradient of every library is checked against
one at a tolerance of 1e-12. otkit and its peers have to reach ACCEPT, relative in L2. The loosest setting tried that
reaches it is timed, in turns. Peers that do not reach it within the limit of a call are left out, and the table says
so.
"""

import sys
import warnings
from functools import partial
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, save, timed

from compare.tables import heading, line, mean_of

ACCEPT = 0.05
PACKAGES = ("otkit", "torch", "pot", "geomloss", "numba")
TITLES = "loss, size, dtype, reg, otkit ms, error, best peer, ms, error, peer / otkit"
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
    """The gradient, and the time in seconds."""
    x = x.clone().requires_grad_()
    seconds = timed(lambda: call(x, y).backward())[1]
    return x.grad, seconds


def settled(call, settings, x, y, wanted, limit):
    """The loosest setting that reaches ACCEPT and its error, or None and why there is none."""
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
            chosen[name] = partial(gradient, partial(call, loss, reg, setting), x, y)
    for name, found in in_turns(chosen, args.repeat).items():
        record[name]["seconds"] = [seconds for _, seconds in found]
    return record


def print_row(row, dtype, record):
    """Print a row of the table. Return the ratio, None where no peer reaches the error."""
    loss, batch, n, reg = row
    ours = median(record["otkit"].get("seconds", [float("nan")]))
    able = {name: median(r["seconds"]) for name, r in record.items() if "seconds" in r and name != "otkit"}
    best = min(able, key=able.get, default=None)
    peer = (best, f"{1e3 * able[best]:.3g}", f"{record[best]['error']:.0e}") if best else ("none", "", "")
    ratio = able[best] / ours if best else None
    size = f"{n}×{n}" if batch is None else f"{batch} of {n}×{n}"
    mine = f"{1e3 * ours:.3g}", f"{record['otkit']['error']:.0e}"
    line(loss, size, dtype, f"{reg:g}", *mine, *peer, f"{ratio:.2f}" if ratio else "–")
    return ratio


def main():
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--limit", type=float, default=5.0, help="seconds of a call, after which no other is tried")
    options.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    heading(TITLES)
    rows, ratios = [], []
    for dtype in args.dtypes:
        for row in ROWS:
            record = measure(row, getattr(torch, dtype), args)
            rows.append({"row": row, "dtype": dtype, "found": record})
            ratios.append(print_row(row, dtype, record))
    mean, count = mean_of(ratios)
    smallest = min((ratio for ratio in ratios if ratio), default=float("nan"))
    print(f"\nGeometric mean of the ratios {mean} ({count} rows), smallest {smallest:.2f}")
    save(args.json, described(args, *PACKAGES) | {"rows": rows})


if __name__ == "__main__":
    main()
