"""Barycenters on a fixed support and of clouds: time and iterations."""

from pathlib import Path

import numpy as np
from PIL import Image

import otkit

DATA = Path(__file__).parents[2] / "examples" / "data"


def costs(images):
    """The squared distances between the cells of images, in pixels."""
    x = np.indices(images.shape[1:]).reshape(images.ndim - 1, -1).T
    return ((x[:, None] - x) ** 2).sum(-1).astype(float)


def _normalised(images):
    return images / images.reshape(len(images), -1).sum(1).reshape(-1, *[1] * (images.ndim - 1))


def _gaussians():
    x, means = np.arange(300.0), np.array([60.0, 130.0, 220.0])
    return _normalised(np.exp(-((x - means[:, None]) ** 2) / (2 * np.array([8.0, 15.0, 5.0])[:, None] ** 2)))


def _shapes():
    x, y = np.meshgrid(*[np.linspace(-1, 1, 32)] * 2, indexing="ij")
    radius = np.hypot(x, y)
    shapes = (abs(x) + abs(y) < 0.8, (radius < 0.9) & (radius > 0.6), (abs(x) < 0.2) & (abs(y) < 0.9))
    return _normalised(np.stack(shapes) * 1.0)


def _noise():
    return _normalised(np.random.default_rng(0).random((5, 24, 24)) ** 8)


def _digits():
    """Five handwritten digits of 8 × 8 pixels, of 4 × 4 cells each."""
    pixels = [np.asarray(Image.open(DATA / f"digit_{k}.png"), dtype=float) for k in range(1, 6)]
    return _normalised(np.kron(np.stack(pixels), np.ones((4, 4))))


PROBLEMS = {
    "gaussians": lambda: (_gaussians(), np.array([0.2, 0.3, 0.5])),
    "shapes": lambda: (_shapes(), np.array([0.2, 0.2, 0.6])),
    "noise": lambda: (_noise(), np.full(5, 0.2)),
    "digits": lambda: (_digits(), np.full(5, 0.2)),
}


class FixedSupport:
    """Images, with a `reg`, debiased, and to the default width of the bounds."""

    param_names = ["problem", "options"]
    params = [list(PROBLEMS), ["reg", "debiased", "bounds"]]
    timeout = 120

    def setup(self, problem, options):
        self.images, self.weights = PROBLEMS[problem]()
        reg = 1e-3 * costs(self.images).max()
        self.options = {"reg": dict(reg=reg), "debiased": dict(reg=reg, debias=True), "bounds": {}}[options]
        otkit.barycenter(self.images, self.weights, spacing=1.0, rtol=0.5)  # compilation

    def time_barycenter(self, problem, options):
        otkit.barycenter(self.images, self.weights, spacing=1.0, **self.options)

    def track_iterations(self, problem, options):
        return otkit.barycenter(self.images, self.weights, spacing=1.0, **self.options).n_iter


class Points:
    """Clouds of unequal sizes, of which 100 points are sought."""

    param_names = ["metric"]
    params = [["sqeuclidean", "euclidean"]]

    def setup(self, metric):
        rng = np.random.default_rng(0)
        self.clouds = [rng.normal(k, 1.0, (n, 2)) for k, n in enumerate((200, 350, 500))]
        otkit.barycenter(self.clouds, support=5, metric=metric)  # compilation

    def time_barycenter(self, metric):
        otkit.barycenter(self.clouds, support=100, metric=metric)
