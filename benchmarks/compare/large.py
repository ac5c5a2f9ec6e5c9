"""Many points, beside other libraries; run ``python benchmarks/compare/large.py``.

Prints time, CPU time, peak memory of the process, and the answer: of otkit the proved interval, of others a number.
Each solve runs in a process of its own. What takes longer than ``--limit`` seconds, or more memory than there is,
is left out at larger sizes.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from suite.large import HIGH, KINDS, points


def multiscale(x, y, a, b, rtol=None, metric="sqeuclidean"):
    import otkit

    result = otkit.solve_sample(x, y, a, b, metric=metric, method=otkit.Multiscale(rtol=rtol))
    return result.lower, result.upper, result.status.name


def exact(x, y, a, b):
    import otkit

    result = otkit.solve_sample(x, y, a, b, method="exact")
    return result.lower, result.upper, result.status.name


def emd(x, y, a, b):
    import ot

    value, log = ot.emd2(a, b, ot.dist(x, y), numItermax=10**8, log=True)
    return value, value, log["warning"] or "optimal"


def emd_lazy(x, y, a, b):
    import ot

    value = ot.emd2_lazy(x, y, a, b, metric="sqeuclidean", numItermax=10**8, return_matrix=False)
    return value, value, "lazy"


def assignment(x, y, a, b):
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    C = cdist(x, y, "sqeuclidean")
    value = C[linear_sum_assignment(C)].mean()
    return value, value, "optimal"


def geomloss(x, y, a, b, scaling=0.9, blur=0.01):
    import torch
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, debias=False, backend="multiscale")
    value = 2 * float(loss(*(torch.from_numpy(v) for v in (a, x, b, y))))  # its cost is half the squared distance
    return value, value, "entropic"


def one_percent(*problem):
    return multiscale(*problem, rtol=1e-2)


def thousandth(*problem):
    return multiscale(*problem, rtol=1e-3)


def ten_thousandth(*problem):
    return multiscale(*problem, rtol=1e-4)


def distance(*problem):
    return multiscale(*problem, rtol=1e-2, metric="euclidean")


CELLS = (multiscale, one_percent, thousandth, ten_thousandth, distance)
METHODS = {
    "otkit, exact": multiscale,
    "otkit, 1e-2": one_percent,
    "otkit, 1e-3": thousandth,
    "otkit, 1e-4": ten_thousandth,
    "otkit, W1 to 1e-2": distance,
    "otkit, method='exact'": exact,
    "POT emd": emd,
    "POT emd2_lazy": emd_lazy,
    "SciPy assignment": assignment,
    "GeomLoss multiscale": geomloss,
}


def measured(queue, name, kind, n):
    """Put the time and the CPU time in seconds, the memory in GiB and the answer into the queue."""
    solve = METHODS[name]
    if not name.startswith("SciPy") or not kind.startswith("clusters"):
        solve(*points(kind, 4200 if kind == HIGH and name.startswith("otkit") else 1000))  # compilation
    problem = points(kind, n)
    began = time.perf_counter(), time.process_time()
    answer = solve(*problem)
    spent = time.perf_counter() - began[0], time.process_time() - began[1]
    queue.put((*spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, answer))


def alone(name, kind, n, limit):
    """What `measured` gives in a process of its own, or the reason why there is nothing."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measured, args=(queue, name, kind, n))
    process.start()
    process.join(limit + 60)
    if process.is_alive():
        process.kill()
        return f"not done in {limit:.0f} s"
    return queue.get() if process.exitcode == 0 else f"failed with exit code {process.exitcode}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=[*KINDS, HIGH], choices=[*KINDS, HIGH])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e4, 1e5])
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a solve")
    arguments = parser.parse_args()
    for kind in arguments.problems:
        # Cells are for few coordinates.
        left_out = {name for name, solve in METHODS.items() if kind == HIGH and solve in CELLS}
        for n in map(int, arguments.sizes):
            for name in arguments.methods:
                if name in left_out:
                    continue
                found = alone(name, kind, n, arguments.limit)
                if isinstance(found, str):
                    left_out.add(name)
                    print(f"{kind:16} {n:8} {name:22} {found}", flush=True)
                    continue
                spent, cpu, memory, (lower, upper, status) = found
                gap = (upper - lower) / upper if upper else 0.0
                cost = f"{spent:8.2f} s {cpu:8.2f} s of CPU {memory:6.2f} GiB"
                answer = f"[{lower:.9g}, {upper:.9g}] gap {gap:.1e} {status}"
                print(f"{kind:16} {n:8} {name:22} {cost}  {answer}", flush=True)
