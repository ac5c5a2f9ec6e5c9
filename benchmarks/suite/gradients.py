"""Gradients: forward and backward, by the envelope and by the implicit function theorem."""

import otkit

from .problems import cloud, costs


class Gradients:
    """Of the optimal value, and of ⟨C, P⟩, by the costs; the largest cost is 1."""

    param_names = ["output", "n", "reg"]
    params = [["value", "value_linear"], [100, 1000], [1e-2, 1e-3]]

    def setup(self, output, n, reg):
        self.C, self.a, self.b = costs("2-D cloud", n)
        self.result = otkit.solve(self.C, self.a, self.b, reg=reg)
        otkit.vjp(self.result, **{output: 1.0})

    def time_backward(self, output, n, reg):
        otkit.vjp(self.result, **{output: 1.0})

    def time_both(self, output, n, reg):
        otkit.vjp(otkit.solve(self.C, self.a, self.b, reg=reg), **{output: 1.0})

    def peakmem_backward(self, output, n, reg):
        otkit.vjp(self.result, **{output: 1.0})


class Points:
    """By the points of a cloud, without a matrix."""

    params = [["value", "value_linear"]]

    def setup(self, output):
        self.result = otkit.solve_sample(*cloud(2000, 3), reg=0.05)
        otkit.vjp(self.result, **{output: 1.0})

    def time_backward(self, output):
        otkit.vjp(self.result, **{output: 1.0})
