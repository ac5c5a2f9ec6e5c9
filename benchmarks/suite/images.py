"""Images without a regularisation: time, memory, iterations and the proved gap."""

import numpy as np

import otkit

KINDS = ("smooth", "bumps", "zeros", "rough")


def _field(side, smoothness, seed, floor):
    """A random field whose spectrum decays with this power, from a fraction of its maximum on."""
    rng, k = np.random.default_rng(seed), np.fft.fftfreq(side) * side
    noise = rng.normal(size=(side, side)) + 1j * rng.normal(size=(side, side))
    field = np.fft.ifft2((1 + k[:, None] ** 2 + k**2) ** (-smoothness / 2) * noise).real
    field -= field.min()
    return field + floor * field.max()


def _bumps(side, seed):
    """Five Gaussians of different widths over a background, with a dynamic range of about 10³."""
    rng, at = np.random.default_rng(seed), (np.arange(side) + 0.5) / side
    image = np.full((side, side), 1e-3)
    for _ in range(5):
        (x, y), width = rng.random(2), 0.02 + 0.08 * rng.random()
        image += rng.random() * np.exp(-((at[:, None] - x) ** 2 + (at - y) ** 2) / (2 * width**2)) / width**2 / 100
    return image


def _shape(side, frame):
    """A disc, or a square frame, in an empty image."""
    x, y = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij")
    if not frame:
        return 1.0 * ((x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.04)
    from_centre = np.maximum(abs(x - 0.6), abs(y - 0.6))
    return 1.0 * ((from_centre < 0.25) & (from_centre >= 0.1))


def pair(kind, side):
    """Two images of mass 1."""
    a, b = {
        "smooth": lambda: (_field(side, 2.5, 0, 0.05), _field(side, 3.0, 1, 0.05)),
        "bumps": lambda: (_bumps(side, 0), _bumps(side, 1)),
        "zeros": lambda: (_shape(side, False), _shape(side, True)),
        "rough": lambda: (_field(side, 1.0, 2, 0.0), _field(side, 1.0, 3, 0.0)),
    }[kind]()
    return a / a.sum(), b / b.sum()


class Images:
    """The squared distance exactly or to the default width, and the city-block distance exactly."""

    param_names = ["images", "metric", "side"]
    params = [list(KINDS), ["sqeuclidean", "cityblock"], [64, 256]]
    timeout = 300

    def setup(self, images, metric, side):
        self.images, self.metric = pair(images, side), metric
        otkit.solve_grid(*pair(images, side), metric=metric, time_limit=1.0)  # compilation

    def time_solve(self, images, metric, side):
        otkit.solve_grid(*self.images, metric=self.metric)

    def peakmem_solve(self, images, metric, side):
        otkit.solve_grid(*self.images, metric=self.metric)

    def track_iterations(self, images, metric, side):
        return otkit.solve_grid(*self.images, metric=self.metric).n_iter

    def track_gap(self, images, metric, side):
        result = otkit.solve_grid(*self.images, metric=self.metric)
        return result.gap / result.upper
