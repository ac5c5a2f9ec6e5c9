"""Time to an answer, beside how good the answer is."""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np

import otkit

from .problems import assignment, cloud, costs, fields


class Wasserstein:
    """Certified distances, to the default rtol."""

    param_names = ["problem", "p"]
    params = [["cloud 300", "cloud 1000", "fields 16"], [1, 2]]
    timeout = 300

    def setup(self, problem, p):
        kind, size = problem.split()
        self.data = {"cloud": cloud, "fields": fields}[kind](int(size))

    def time_distance(self, problem, p):
        otkit.wasserstein(*self.data, p=p)

    def track_iterations(self, problem, p):
        return otkit.wasserstein(*self.data, p=p).result.n_iter

    def track_relative_width(self, problem, p):
        found = otkit.wasserstein(*self.data, p=p)
        return (found.upper - found.lower) / found.upper

    def peakmem_distance(self, problem, p):
        otkit.wasserstein(*self.data, p=p)


class Entropic:
    """Regularised plans to an error of 1e-8, the regularisation relative to the largest cost of 1."""

    param_names = ["problem", "n", "reg"]
    params = [["uniform", "cloud"], [32, 200, 1000, 4000], [1e-1, 1e-2, 1e-3]]
    timeout = 300

    def setup(self, problem, n, reg):
        if problem == "uniform":
            self.C = assignment(n)
        else:
            x, y, *_ = cloud(n)
            self.C = ((x[:, None] - y) ** 2).sum(-1)
        self.C /= self.C.max()

    def solve(self, reg):
        return otkit.solve(self.C, reg=reg, tol=1e-8)

    def time_plan(self, problem, n, reg):
        self.solve(reg).plan  # noqa: B018

    def track_iterations(self, problem, n, reg):
        return self.solve(reg).n_iter

    def track_error(self, problem, n, reg):
        return self.solve(reg).error

    def peakmem_plan(self, problem, n, reg):
        self.solve(reg).plan  # noqa: B018


class Draws:
    """Pairs drawn from plans between points: a batch of flow matching, and few of many points."""

    param_names = ["points", "reg"]
    params = [[256, 2048, 20_000], [None, 0.05]]
    timeout = 300

    def setup(self, points, reg):
        x, y, *_ = cloud(points)
        method = otkit.Sinkhorn(n_iters=3) if reg and points > 2048 else "auto"
        self.result = otkit.solve_sample(x, y, reg=reg, method=method)
        self.result.sample(1, 0)

    def time_sample(self, points, reg):
        self.result.sample(256, 0)

    def peakmem_sample(self, points, reg):
        self.result.sample(256, 0)


class Slices:
    """Sliced distances along 50 directions, beside POT's, and the distance of Gaussians fitted to features."""

    param_names = ["points", "d"]
    params = [[300, 3000, 30_000], [3, 64]]
    timeout = 300

    def setup(self, points, d):
        random = np.random.default_rng(0)
        self.x, self.y = random.normal(size=(2, points, d))
        self.directions = random.normal(size=(50, d))

    def time_sliced(self, points, d):
        otkit.sliced_wasserstein(self.x, self.y, projections=self.directions)

    def time_pot(self, points, d):
        import ot

        ot.sliced_wasserstein_distance(self.x, self.y, projections=self.directions.T)

    def time_largest(self, points, d):
        otkit.sliced_wasserstein(self.x, self.y, projections=self.directions, largest=True)

    def time_fid(self, points, d):
        otkit.fid(self.x, self.y)


class SmallRegularisation:
    """Plans to an error of 1e-8 where sweeps alone are slow, the regularisation relative to the largest cost of 1."""

    param_names = ["problem", "n", "reg"]
    params = [["uniform costs", "64-D cloud", "fields, L1"], [256, 1024], [1e-3, 1e-4, 1e-5]]
    timeout = 300

    def setup(self, problem, n, reg):
        self.C, self.a, self.b = costs(problem, n)

    def solve(self, reg):
        return otkit.solve(self.C, self.a, self.b, reg=reg, tol=1e-8)

    def time_solve(self, problem, n, reg):
        self.solve(reg)

    def track_iterations(self, problem, n, reg):
        return self.solve(reg).n_iter

    def track_newton_steps(self, problem, n, reg):
        return sum(stage.newton_steps for stage in self.solve(reg).stages)

    def track_error(self, problem, n, reg):
        return self.solve(reg).error


class Iterations:
    """Nanoseconds per entry of an iteration on one core: in the log domain, on entries that were kept, or on a few.

    "list" takes those that matter at reg 1e-3 from all costs, and "listed" is an iteration by them.
    """

    param_names = ["n", "dtype", "form"]
    params = [[500, 1000, 2000], ["float64", "float32"], ["log", "kept", "list", "listed"]]
    unit = "ns"

    def setup(self, n, dtype, form):
        from otkit.kernels.numba import iterations

        C, a, zero = assignment(n).astype(dtype), np.full(n, 1 / n), np.zeros(n)
        sigma, f, sums, nothing = np.full(n, np.nan), np.zeros(n), np.zeros(n), np.empty((0, 0))
        log = lambda Q: iterations.log_rows(C, 0, a, zero, zero, 1.0, 0.05, sigma, f, sums, Q)  # noqa: E731
        self.iterate = lambda: log(nothing)
        if form == "kept":
            log(Q := np.empty((n, n), dtype))
            last, v = sigma.copy(), np.ones(n)
            kept = iterations.absorbed_rows
            self.iterate = lambda: kept(Q, 0, n, a, zero, v, 1.0, 0.05, last, sigma, f, sums)
        elif form in ("list", "listed"):
            from otkit.kernels.numba import listed as entries

            low, cut = entries.cuts(1e-8, a, n)
            lists = np.empty((n, 2), np.int64), np.empty(n * n, np.uint32), np.empty(n * n)
            found = np.exp(cut), *lists, 0, n * n
            self.iterate = lambda: entries.list_rows(C, 0, a, zero, zero, 1.0, 1e-3, sigma, f, sums, low, cut, *found)
            if form == "listed":
                self.iterate()
                last, v, ends, mass, total = sigma.copy(), np.ones(n), np.array([0, n]), np.zeros(1), np.empty(n)
                parts = sums[None], mass, total
                listed = entries.listed_groups
                self.iterate = lambda: listed(*lists, ends, 0, 1, a, zero, v, 1.0, 1e-3, last, sigma, f, *parts)
        self.iterate()

    def track_entry(self, n, dtype, form):
        rounds = []
        for _ in range(21):
            start = time.perf_counter()
            self.iterate()
            rounds.append(time.perf_counter() - start)
        return 1e9 * float(np.median(rounds)) / n**2


class Calls:
    """Small problems, one at a time: what a call costs."""

    param_names = ["n"]
    params = [10, 20, 50, 100, 200]

    def setup(self, n):
        self.C, self.a = assignment(n), np.full(n, 1 / n)
        for _ in range(60):  # the whole loop is compiled once such problems come often
            self.time_100_iterations(n)

    def time_100_iterations(self, n):
        otkit.solve(self.C, self.a, self.a, reg=0.1, method=otkit.Sinkhorn(n_iters=100)).plan  # noqa: B018

    def time_to_1e_6(self, n):
        otkit.solve(self.C, self.a, self.a, reg=0.1).plan  # noqa: B018

    def time_value_at_1e_3(self, n):
        otkit.solve(self.C, self.a, self.a, reg=1e-3).value  # noqa: B018


class Batch:
    """Many problems in one call, to an error of 1e-6 each."""

    param_names = ["batch"]
    params = ["1000 × 32", "200 × 128"]

    def setup(self, batch):
        items, n = (int(size) for size in batch.split(" × "))
        self.C = np.random.default_rng(0).random((items, n, n))

    def time_plans(self, batch):
        otkit.solve(self.C, reg=0.02).plan  # noqa: B018

    def track_worst_error(self, batch):
        return float(otkit.solve(self.C, reg=0.02).error.max())


class Stream:
    """Points in 3-D whose costs are never held, at a thousandth of the largest; the default beside sweeps alone."""

    param_names = ["n", "method"]
    params = [[2000, 20_000], ["auto", "sinkhorn"]]
    timeout = 600
    number, repeat, warmup_time = 1, (1, 3, 10.0), 0.0

    def setup(self, n, method):
        rng = np.random.default_rng(0)
        self.data = rng.random((n, 3)), rng.random((n, 3))

    def solve(self, method):
        return otkit.solve_sample(*self.data, reg=3e-3, tol=1e-6, method=method)

    def time_solve(self, n, method):
        self.solve(method)

    def track_iterations(self, n, method):
        return self.solve(method).n_iter

    def peakmem_solve(self, n, method):
        self.solve(method)


class Relaxed:
    """Penalised marginals, and the divergence of two clouds."""

    param_names = ["n"]
    params = [200, 1000]

    def setup(self, n):
        self.x, self.y, *_ = cloud(n)

    def time_unbalanced(self, n):
        otkit.solve_sample(self.x, self.y, reg=1e-2, unbalanced=0.1)

    def track_unbalanced_iterations(self, n):
        return otkit.solve_sample(self.x, self.y, reg=1e-2, unbalanced=0.1).n_iter

    def time_unbalanced_without_reg(self, n):
        float(otkit.solve_sample(self.x, self.y, unbalanced=1.0).value)

    def time_divergence(self, n):
        float(otkit.sinkhorn_divergence(self.x, self.y, reg=1e-2))


class Certificate:
    """The bounds of a solved problem."""

    param_names = ["n"]
    params = [20, 200, 1000]

    def setup(self, n):
        self.C = assignment(n)
        self.result = otkit.solve(self.C, reg=1e-2)

    def time_bounds(self, n):
        otkit.solve(self.C, reg=1e-2, init=self.result).upper  # noqa: B018


class Line:
    """Exact distances on a line."""

    param_names = ["n"]
    params = [1000, 100_000]

    def setup(self, n):
        self.data = cloud(n, d=1)

    def time_distance(self, n):
        float(otkit.wasserstein(*self.data, p=1))

    def time_plan(self, n):
        otkit.wasserstein(*self.data, p=1).result.plan_sparse()


class Circle(Line):
    """Exact distances on a circle."""

    def time_distance(self, n):
        float(otkit.wasserstein(*self.data, p=1, period=1.0))

    def time_plan(self, n):
        otkit.wasserstein(*self.data, p=1, period=1.0).result.plan_sparse()


_SOLVE = "import otkit; otkit.solve([[0.0, 1.0], [1.0, 0.0]], reg=0.5).plan"


class Start:
    """What a user waits for before anything is computed."""

    timeout = 300

    def time_import(self):
        subprocess.run([sys.executable, "-c", "import otkit"], check=True)

    def time_command_line(self):
        subprocess.run([sys.executable, "-m", "otkit", "--version"], check=True, stdout=subprocess.DEVNULL)

    def time_process_with_one_solve(self):
        subprocess.run([sys.executable, "-c", _SOLVE], check=True)

    def track_first_solve_ever(self):
        """With the compilation, in seconds."""
        with tempfile.TemporaryDirectory() as cache:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", _SOLVE], check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache})
            return time.perf_counter() - start
