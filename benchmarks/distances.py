"""Time to an answer, beside how good the answer is."""

import subprocess
import sys

import otkit

from .problems import assignment, cloud, fields


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
    """Regularised plans to a marginal error of 1e-8, the regularisation relative to the largest cost of 1."""

    param_names = ["n", "reg"]
    params = [[20, 200, 1000], [1e-1, 1e-2, 1e-3]]
    timeout = 300

    def setup(self, n, reg):
        self.C = assignment(n)

    def time_solve(self, n, reg):
        otkit.solve(self.C, reg=reg, tol=1e-8)

    def track_iterations(self, n, reg):
        return otkit.solve(self.C, reg=reg, tol=1e-8).n_iter

    def track_error(self, n, reg):
        return otkit.solve(self.C, reg=reg, tol=1e-8).error


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
        otkit.wasserstein(*self.data, p=1)


class Start:
    """What a user waits for before anything is computed."""

    def time_import(self):
        subprocess.run([sys.executable, "-c", "import otkit"], check=True)

    def time_command_line(self):
        subprocess.run([sys.executable, "-m", "otkit", "--version"], check=True, stdout=subprocess.DEVNULL)
