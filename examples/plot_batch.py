"""
Many problems in one call
=========================

Leading axes are batch axes. Each problem of a batch stops by itself and has a status of its own; measures of different
sizes are padded with points of weight zero.
"""

# %%
# Images of different sizes
# -------------------------
# Some images of handwritten digits, and the mean image of each digit. The pixels with ink are the points. Their number
# differs, so we pad: the points of the padding may lie anywhere, their weight is 0.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import otkit

digits = load_digits()
images, labels = digits.images[:300] / 16, digits.target[:300]
means = np.stack([digits.images[300:][digits.target[300:] == k].mean(axis=0) for k in range(10)]) / 16


def ink(images):
    """Return pixels (k, s, 2) and weights (k, s) of images, with zeros up to the size s of the largest."""
    masses = [np.where(image > 0.05, image, 0) for image in images]
    size = max(np.count_nonzero(mass) for mass in masses)
    points, weights = np.zeros((len(images), size, 2)), np.zeros((len(images), size))
    for k, mass in enumerate(masses):
        where = np.argwhere(mass > 0)
        points[k, : len(where)], weights[k, : len(where)] = where, mass[mass > 0] / mass.sum()
    return points, weights


x, a = ink(images)
y, b = ink(means)
print(f"{x.shape} and {y.shape}; sizes from {np.count_nonzero(a, axis=1).min()} to {x.shape[1]} points")

# %%
# All pairs in one call
# ---------------------
# Batch axes broadcast: 300 images against 10 means are 3000 problems.

pairs = (x[:, None], y[None], a[:, None], b[None])
otkit.solve_sample(x[:2], y[:2], a[:2], b[:2], reg=0.5)  # the first call loads the compiled code
began = time.perf_counter()
result = otkit.solve_sample(*pairs, reg=0.5)
batch_seconds = time.perf_counter() - began
print(result)
print(f"iterations from {result.n_iter.min()} to {result.n_iter.max()}, largest error {result.error.max():.1e}")

# %%
# A loop gives the same values. We time both, the loop on a part of the pairs.

began = time.perf_counter()
loop = [otkit.solve_sample(x[i], y[k], a[i], b[k], reg=0.5) for i in range(20) for k in range(10)]
loop_seconds = (time.perf_counter() - began) * len(images) / 20
print(f"batch {batch_seconds:.2f} s, loop {loop_seconds:.2f} s (estimated from 200 pairs)")
print(f"largest difference of the values: {max(abs(r.value - result.value.flat[k]) for k, r in enumerate(loop)):.1e}")

# %%
# The nearest mean
# ----------------
# Each image is given the digit whose mean is nearest. The iterations that a problem takes differ from one to the next.

guess = result.value_linear.argmin(axis=1)
print(f"{np.mean(guess == labels):.0%} of the images are nearest to the mean of their digit")
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
confusion = np.histogram2d(labels, guess, bins=np.arange(11) - 0.5)[0]
left.imshow(confusion, cmap="Blues")
left.set(xlabel="nearest mean", ylabel="digit", xticks=range(10), yticks=range(10))
right.hist(result.n_iter.ravel(), bins=np.arange(result.n_iter.min(), result.n_iter.max() + 2) - 0.5, rwidth=0.9)
right.set(xlabel="iterations", ylabel="problems")
plt.show()
