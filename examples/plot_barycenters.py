"""
Means of images and of clouds
=============================

The Wasserstein barycenter of measures has the least mean transport cost to them. The mean of the pixels of two images
shows both, one over the other; the barycenter is between them.
"""

# %%
# Between four digits
# -------------------
# The weights of the four corners are bilinear. A small `reg` makes the pictures smooth; without one, the result proves
# how far it is from the best barycenter.

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import otkit

data = Path(sys.argv[0]).parent / "data"
images = np.stack([np.asarray(Image.open(data / f"digit_{digit}.png"), dtype=float) for digit in (0, 1, 4, 7)])
images /= images.sum((1, 2), keepdims=True)

steps = np.linspace(0, 1, 5)
weights = np.array([[(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t] for s in steps for t in steps])
batch = np.broadcast_to(images, (25, *images.shape))
result = otkit.barycenter(batch, weights, spacing=(1.0, 1.0), reg=1.0)

figure, panels = plt.subplots(5, 5, figsize=(6, 6), layout="constrained")
for axes, image in zip(panels.flat, result.masses, strict=True):
    axes.imshow(image, cmap="gray_r")
    axes.set(xticks=[], yticks=[])

# %%
# How good it is
# --------------
# The bounds hold without a regularisation, over all images: potentials whose weighted sum is 0 prove the lower one.

exact = otkit.barycenter(images[:2], spacing=1.0, rtol=1e-2)
print(exact, f"\nthe least mean cost is in [{exact.lower:.4f}, {exact.upper:.4f}]")

# %%
# Points
# ------
# Of clouds, the points of the barycenter are sought, here 40 of equal masses, for two metrics.

rng = np.random.default_rng(0)
angle = rng.uniform(0, 2 * np.pi, (2, 60))
ring = np.stack([np.cos(angle[0]), np.sin(angle[0])], -1)
eight = np.stack([3 + 1.2 * np.sin(angle[1]), 0.8 * np.sin(2 * angle[1])], -1)
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
axes.scatter(*ring.T, s=12, color="0.7", label="clouds")
axes.scatter(*eight.T, s=12, color="0.7")
for metric, color in (("sqeuclidean", "C0"), ("euclidean", "C3")):
    mean = otkit.barycenter([ring, eight], [0.5, 0.5], support=40, metric=metric)
    axes.scatter(*mean.points.T, s=16, color=color, label=metric)
axes.set_aspect("equal")
axes.legend()
plt.show()
