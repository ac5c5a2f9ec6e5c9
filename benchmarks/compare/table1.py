"""Table 1 of "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations" (ICLR 2024), and the same with otkit.

Run ``python benchmarks/compare/table1.py``. The problems are an assignment of 500 points with costs U(0, 1), and a pair
of images of 28 × 28 pixels with squared and with city-block distances, at reg = 1/1200 where the largest cost is 1.
Every method runs to an L1 error of TOL, or what rounding allows. The images are scikit-learn's digits, enlarged;
``--digits FILE.npz`` takes the first two of a file, such as MNIST.

The paper keeps 2/n of the entries of the Hessian, of order 2n, in the first two cases, and 15/n after 700 sweeps in the
last: about 3 and 29 entries in each row of the plan.
"""

import sys
import warnings
from pathlib import Path
from statistics import median

import numpy as np
from scipy.spatial.distance import cdist

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, parser, save, timed
from suite.problems import assignment, images

import otkit
from compare.tables import heading, line

REG, TOL = 1 / 1200, 1e-13
MOST = 200_000  # plain iterations
PACKAGES = ("otkit", "numpy", "scipy", "numba")
TITLES = "problem, method, s, iterations, of them Newton, CG, error, in the paper: s, iterations"
PAPER = {  # seconds on an Apple M1 Pro, and iterations
    "assignment, n = 500": {"Sinkhorn": (233.36, 56_199), "SNS as published": (0.34, 29)},
    "images, squared L2": {"Sinkhorn": (18.84, 2_041), "SNS as published": (2.33, 53)},
    "images, L1": {"Sinkhorn": (45.75, 5_748), "SNS as published": (12.22, 777)},
}


def problems(file):
    """Names, costs, weights, and the sweeps and kept entries a row of the published method."""
    pixels = np.argwhere(np.ones((28, 28)))
    a, b = (w.ravel() + 1e-3 * w.max() for w in images(28, file))
    for name in PAPER:
        if name.startswith("assignment"):
            yield name, assignment(500), None, None, 20, 3
        else:
            C = cdist(pixels, pixels, "cityblock" if name.endswith("L1") else "sqeuclidean")
            yield name, C / C.max(), a / a.sum(), b / b.sum(), *((700, 29) if name.endswith("L1") else (20, 3))


def methods(n, sweeps, entries):
    published = otkit.SparseNewton(tol=TOL, keep=entries / n, factor=np.inf, sweeps=sweeps, max_iter=MOST)
    return {
        "Sinkhorn": otkit.Sinkhorn(n_iters=MOST),
        "Sinkhorn, annealed and accelerated": otkit.Sinkhorn(tol=TOL, max_iter=MOST),
        "SNS as published": published,
        "SNS": otkit.SparseNewton(tol=TOL),
    }


def measure(C, a, b, method, repeat):
    floor = 8 * 2.0**-53 / REG

    def enough(progress):
        return method.name == "sinkhorn" and method.n_iters is not None and progress.error[0] <= floor

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", otkit.ConvergenceWarning)
            return otkit.solve(C, a, b, reg=REG, method=method, callback=enough)

    run()  # compiles
    times = []
    while len(times) < repeat and sum(times) < 20:
        result, seconds = timed(run)
        times.append(seconds)
    steps = sum(stage.newton_steps for stage in result.stages)
    return {
        "seconds": median(times),
        "iterations": int(result.n_iter),
        "newton_steps": steps,
        "cg_steps": sum(stage.cg_steps for stage in result.stages),
        "error": float(result.error),
    }


def main():
    options = parser(__doc__)
    options.add_argument("--digits", metavar="FILE.npz", help="images to take instead of scikit-learn's")
    options.add_argument("--repeat", type=int, default=5)
    args = options.parse_args()
    heading(TITLES)
    rows = []
    for problem, C, a, b, sweeps, entries in problems(args.digits):
        for name, method in methods(len(C), sweeps, entries).items():
            row = {"problem": problem, "method": name} | measure(C, a, b, method, args.repeat)
            rows.append(row)
            paper = PAPER[problem].get(name, ("–", "–"))
            steps = row["iterations"], row["newton_steps"], row["cg_steps"]
            line(problem, name, f"{row['seconds']:.3g}", *steps, f"{row['error']:.0e}", *paper)
    save(args.json, described(args, *PACKAGES) | {"rows": rows})


if __name__ == "__main__":
    main()
