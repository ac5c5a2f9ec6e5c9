"""Problems to measure on, by name and size; each gives points and weights."""

import numpy as np


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
