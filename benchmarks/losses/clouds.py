"""`SinkhornLoss` of batches of small clouds beside GeomLoss; run ``python benchmarks/losses/clouds.py``.

Prints a Markdown table: the best times of a forward and a backward pass together, by turns, and the error of the
gradient, relative in L2. GeomLoss takes ``scaling=0.5``. otkit takes the loosest tolerance that is as accurate.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, save
from compare.gradients import geomloss, gradient, otkit
from compare.tables import heading, line

TOLERANCES = (0.3, 0.2, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 1e-3, 1e-4)
FAMILIES = {
    "cube": lambda shape, draw: torch.rand(shape, generator=draw),
    "normal, apart": lambda shape, draw: torch.randn(shape, generator=draw) + 1,
    "clusters": lambda shape, draw: (
        torch.randn(shape, generator=draw) / 10 + torch.randint(0, 4, shape, generator=draw)
    ),
}


def clouds(family, batch, n, d, seed):
    draw = torch.Generator().manual_seed(seed)
    x, y = (FAMILIES[family]((batch, n, d), draw) for _ in range(2))
    return (x - 1, y) if "apart" in family else (x, y)


def measure(row, args):
    family, d, relative = row
    x, y = clouds(family, args.batch, args.points, d, args.seed)
    reg = relative * float(torch.cdist(x, y).max() ** 2)
    wanted = gradient(partial(otkit, "divergence", reg, 1e-11), x.double(), y.double())[0]

    def error(call):
        return float((gradient(call, x, y)[0] - wanted).norm() / wanted.norm())

    peer = partial(geomloss, "divergence", reg, 0.5)
    of_peer = error(peer)
    for tol in TOLERANCES:
        mine = partial(otkit, "divergence", reg, tol)
        of_mine = error(mine)
        if of_mine <= of_peer:
            break
    found = in_turns({"otkit": partial(gradient, mine, x, y), "peer": partial(gradient, peer, x, y)}, args.repeat)
    times = {name: 1e3 * min(seconds for _, seconds in runs) for name, runs in found.items()}
    return {"tol": tol, "error": of_mine, "error of peer": of_peer, **times}


def main():
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--points", type=int, default=256)
    options.add_argument("--coordinates", type=int, nargs="+", default=[2, 16, 128])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--repeat", type=int, default=9)
    args = options.parse_args()
    warnings.simplefilter("ignore")
    heading("points, coordinates, reg, otkit ms, error, GeomLoss ms, error, GeomLoss / otkit")
    rows = []
    for row in [(family, d, reg) for d in args.coordinates for family in FAMILIES for reg in (1e-1, 1e-2)]:
        record = measure(row, args)
        rows.append({"row": row, "found": record})
        ratio = f"{record['peer'] / record['otkit']:.2f}"
        mine, peer = (f"{record[name]:.1f}" for name in ("otkit", "peer"))
        family, d, reg = row
        line(family, d, f"{reg:g}", mine, f"{record['error']:.0e}", peer, f"{record['error of peer']:.0e}", ratio)
    save(args.json, described(args, "otkit", "torch", "geomloss", "numba") | {"rows": rows})


if __name__ == "__main__":
    main()
