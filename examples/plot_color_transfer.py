"""
Colour transfer
===============

One photo takes on the colours of another: the map between two samples of pixels, applied to all pixels.
"""

# %%
# Two photos
# ----------
# Two photos come with scikit-learn. We keep every third pixel. The colour of a pixel is a point in three dimensions,
# with coordinates from 0 to 1.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

import otkit

temple, flower = (image[::3, ::3] / 255 for image in load_sample_images().images)
print(temple.shape, flower.shape)

# %%
# A plan between samples
# ----------------------
# Some hundred pixels of each photo stand for all of them. ``reg`` is in units of the squared distance between colours.
# It is small beside the cost of the plan, yet large enough for a smooth map.

rng = np.random.default_rng(0)
x, y = (rng.choice(image.reshape(-1, 3), size=500, replace=False) for image in (temple, flower))
there = otkit.solve_sample(x, y, reg=0.01)
back = otkit.solve_sample(y, x, reg=0.01)
print(there)

# %%
# The map on all pixels
# ---------------------
# :meth:`~otkit.Result.transport` sends points that were not in the sample: each colour goes to a mean of the sampled
# colours of the other photo. Chunks keep the memory for one call small.


def recolour(image, result):
    """Return the image with every pixel sent along the map of the result."""
    pixels = image.reshape(-1, 3)
    chunks = np.array_split(pixels, 8)
    return np.concatenate([result.transport(chunk) for chunk in chunks]).reshape(image.shape)


recoloured = recolour(temple, there), recolour(flower, back)
for name, image in zip(("temple", "flower", "temple recoloured"), (temple, flower, recoloured[0]), strict=True):
    print(f"{name:17}  mean colour {image.mean(axis=(0, 1)).round(3)}")

# %%
# The figure
# ----------
# Each photo, the same in the colours of the other, and the sampled colours. A mean of colours stays between 0 and 1;
# the clip takes away rounding only.

figure, panels = plt.subplots(2, 3, figsize=(10, 5.4), layout="constrained")
for row, image, result, points in zip(panels, (temple, flower), recoloured, (x, y), strict=True):
    row[0].imshow(image)
    row[1].imshow(np.clip(result, 0, 1))
    row[2].scatter(points[:, 0], points[:, 2], c=points, s=9)
    row[2].set(xlabel="red", ylabel="blue", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title="its colours")
    for axes, title in zip(row[:2], ("photo", "in the colours of the other"), strict=True):
        axes.set(title=title, xticks=[], yticks=[])
plt.show()
