"""
The distance between two images
===============================

Two images of handwritten digits as distributions of ink over their pixels: how far apart they are, and where the ink
moves.
"""

# %%
# Images as measures
# ------------------
# A pixel with ink is a point, at its row and column. Its mass is its grey value, divided by the total.

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import otkit

data = Path(sys.argv[0]).parent / "data"
three, five = (np.asarray(Image.open(data / f"digit_{digit}.png"), dtype=float) for digit in (3, 5))


def ink(image):
    """Return the pixels (n, 2) that have ink, and their masses (n,)."""
    return np.argwhere(image > 0).astype(float), image[image > 0] / image.sum()


x, a = ink(three)
y, b = ink(five)

# %%
# The distance
# ------------
# It is in pixels. The command line prints the same with
# ``otkit w2 examples/data/digit_3.png examples/data/digit_5.png``.

distance = otkit.wasserstein(x, y, a, b)
print(distance)

# %%
# The displacement
# ----------------
# :meth:`~otkit.Result.barycentric` gives where the ink of a pixel goes on average.

moved = distance.result.barycentric() - x
figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for axes, image, title in zip(panels, (three, five, 0.25 * three), ("from", "to", "displacement"), strict=True):
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=255)
    axes.set(title=title, xticks=[], yticks=[])
panels[2].quiver(x[:, 1], x[:, 0], moved[:, 1], moved[:, 0], color="C3", angles="xy", scale_units="xy", scale=1)

# %%
# The path
# --------
# Every arc of the plan carries its mass from a pixel of one image to a pixel of the other. At time t it has gone the
# fraction t of the way; all arcs together are then at a point of the geodesic between the two measures. We draw it with
# a little blur.

arcs = distance.result.plan_sparse()
ticks = np.linspace(-0.5, 7.5, 64)
grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
figure, panels = plt.subplots(1, 5, figsize=(10, 2.3), layout="constrained")
for axes, t in zip(panels, np.linspace(0, 1, 5), strict=True):
    at = (1 - t) * x[arcs.row] + t * y[arcs.col]
    square = ((grid[:, :, None] - at) ** 2).sum(axis=-1)
    axes.imshow(np.exp(-square / 0.6) @ arcs.mass, cmap="gray_r", vmin=0)
    axes.set(title=f"t = {t:g}", xticks=[], yticks=[])
plt.show()
