"""Problems to measure on, by name and size; each gives points and weights."""

import numpy as np
from scipy.ndimage import zoom
from scipy.spatial.distance import cdist

PROBLEMS = (
    "2-D cloud",
    "64-D cloud",
    "uniform costs",
    "digits, L1",
    "digits, squared L2",
    "fields, L1",
    "fields, squared L2",
)  # of `costs`


def cloud(n, d=2, seed=0):
    """Two uniform clouds of n points in the unit cube."""
    rng = np.random.default_rng(seed)
    weights = np.full(n, 1 / n)
    return rng.random((n, d)), rng.random((n, d)), weights, weights


def fields(side, seed=0):
    """Two smooth random fields on a grid of side × side pixels."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    masses = []
    for _ in range(2):
        noise = np.fft.fft2(rng.standard_normal((side, side)))
        field = np.exp(np.fft.ifft2(noise / (1 + (8 * frequency) ** 2)).real)
        masses.append(field.ravel() / field.sum())
    pixels = np.argwhere(np.ones((side, side))).astype(float)
    return pixels, pixels, *masses


def assignment(n, seed=0):
    """A matrix of independent uniform costs."""
    return np.random.default_rng(seed).random((n, n))


def normal_cloud(n, d=64, seed=0):
    """Two clouds of n standard normal points."""
    rng = np.random.default_rng(seed)
    weights = np.full(n, 1 / n)
    return rng.standard_normal((n, d)), rng.standard_normal((n, d)), weights, weights


def images(side, file=None):
    """Two images of digits, interpolated to side × side.

    They are scikit-learn's, or the first two in a .npz file: of its array "images", else of its first array with three
    axes.
    """
    found = _stored(file) if file else _bundled()
    return [zoom(image.astype(float), side / image.shape[0], order=1) for image in found[:2]]


def digits(side, file=None):
    """The pixels that carry mass in two images of digits, as points; `images` says which."""
    grids = images(side, file)
    pixels = [np.argwhere(grid > 0).astype(float) for grid in grids]
    weights = [grid[grid > 0] / grid.sum() for grid in grids]
    return *pixels, *weights


def _bundled():
    from sklearn.datasets import load_digits  # the benchmarks that asv runs do without

    return load_digits().images


def _stored(file):
    with np.load(file) as arrays:
        return arrays["images"] if "images" in arrays else next(x for x in arrays.values() if x.ndim == 3)


def costs(name, n, file=None):
    """A problem of about n × n as a matrix of costs, the largest of which is 1, and weights."""
    side = round(n**0.5)
    x, y, a, b, metric = {
        "2-D cloud": lambda: (*cloud(n), "sqeuclidean"),
        "64-D cloud": lambda: (*normal_cloud(n), "sqeuclidean"),
        "uniform costs": lambda: (*cloud(n), None),
        "digits, L1": lambda: (*digits(side, file), "cityblock"),
        "digits, squared L2": lambda: (*digits(side, file), "sqeuclidean"),
        "fields, L1": lambda: (*fields(side), "cityblock"),
        "fields, squared L2": lambda: (*fields(side), "sqeuclidean"),
    }[name]()
    C = cdist(x, y, metric) if metric else assignment(n)
    return C / C.max(), a, b
