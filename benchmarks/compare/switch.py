"""The cost model of Sinkhorn-Newton-Sparse beside the clock; run ``python benchmarks/compare/switch.py``.

Newton steps take over from sweeps where `otkit.solvers.sns.switch` predicts that they are faster. For each problem this
prints the time of its sweeps and of its Newton steps over what is predicted for them, and the time with Newton steps
over the time with sweeps alone. Ratios of sweeps are those of the machine; the switch depends on how the two columns of
ratios differ.
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from common import described, parser, save, timed
from suite.problems import PROBLEMS, costs

import otkit
from compare.tables import heading, line
from otkit.solvers.sns import solver
from otkit.solvers.sns.switch import USUAL, predicted

PACKAGES = ("otkit", "numpy", "scipy", "numba")
TITLES = "problem, size, reg, sweeps, sweeps / predicted, Newton steps, Newton / predicted, with / without Newton"


class Clock:
    """Seconds and predictions of the sweeps and of the Newton steps of a solve."""

    def __init__(self):
        self.sweeps, self.newton = [], []
        self.advance, self.descend = solver.descent.advance, solver.descend

    def __enter__(self):
        solver.descent.advance, solver.descend = self.on_sweeps, self.on_newton
        return self

    def __exit__(self, *_):
        solver.descent.advance, solver.descend = self.advance, self.descend

    def on_sweeps(self, problem, state, *rest):
        after, seconds = timed(self.advance, problem, state, *rest)
        done = int((after.n_iter - state.n_iter).sum())
        self.sweeps.append((seconds, done * float(predicted(problem, after, 1.0).sweep[0]), done))
        return after

    def on_newton(self, problem, state, *rest):
        after, seconds = timed(self.descend, problem, state, *rest)
        costs, done = predicted(problem, state, USUAL), int((after.n_iter - state.n_iter).sum())
        self.newton.append((seconds, float(costs.beginning[0] + done * costs.step[0]), done))
        return after


def ratio(parts):
    """Measured over predicted, and how many iterations that was; None where there were none."""
    seconds, wanted, done = (sum(column) for column in zip(*parts, strict=True)) if parts else (0.0, 0.0, 0)
    return (seconds / wanted if wanted else None), done


def measure(name, n, reg):
    """The row of a problem whose largest cost is 1."""
    C, a, b = costs(name, n)
    solve = lambda method: otkit.solve(C, a, b, reg=reg, method=method, tol=1e-8)  # noqa: E731
    solve("sns"), solve("sinkhorn")  # compiles
    with Clock() as clock:
        _, both = timed(solve, "sns")
    _, alone = timed(solve, "sinkhorn")
    return [name, len(C), reg, ratio(clock.sweeps), ratio(clock.newton), both / alone]


def show(row):
    name, n, reg, (sweeps, sweeping), (newton, steps), saved = row
    number = lambda x: "–" if x is None else f"{x:.2f}"  # noqa: E731
    line(name, n, f"{reg:g}", sweeping, number(sweeps), steps, number(newton), number(saved))


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000])
    arguments.add_argument("--regs", type=float, nargs="+", default=[1e-3, 1e-4, 1e-5], help="of the largest cost")
    given = arguments.parse_args()
    heading(TITLES)
    rows = []
    for name in PROBLEMS:
        for n in given.sizes:
            for reg in given.regs:
                rows.append(measure(name, n, reg))
                show(rows[-1])
    save(given.json, {**described(given, *PACKAGES), "rows": rows})
    for title, place in (("sweeps", 3), ("Newton steps", 4)):
        known = [row[place][0] for row in rows if row[place][0] is not None]
        print(f"{title} over predicted: median {median(known):.2f}, {np.min(known):.2f} to {np.max(known):.2f}")


if __name__ == "__main__":
    main()
