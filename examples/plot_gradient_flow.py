"""
A gradient flow, with the bias and without
==========================================

Points that follow the gradient of a loss show what it is small for.
"""

# %%
# Two shapes
# ----------
# A disc flows to a ring. Each point carries the same mass, so that a step of length 1 along the gradient, times the
# number of points, moves it to where its own mass should go.

import matplotlib.pyplot as plt
import numpy as np
import torch

from otkit.losses import SinkhornLoss

rng = np.random.default_rng(0)
n, reg = 300, 0.05
angle, radius = rng.uniform(0, 2 * np.pi, (2, n)), rng.random((2, n))
disc = 0.4 * np.sqrt(radius[0])[:, None] * np.stack([np.cos(angle[0]), np.sin(angle[0])], axis=1)
ring = (1 + 0.1 * radius[1])[:, None] * np.stack([np.cos(angle[1]), np.sin(angle[1])], axis=1)
target = torch.tensor(ring)


def flow(loss, steps=30, rate=0.4):
    """The points after each step of gradient descent, and the losses."""
    points, path, losses = torch.tensor(disc, requires_grad=True), [disc], []
    for _ in range(steps):
        value = loss(points, target)
        (gradient,) = torch.autograd.grad(value, points)
        with torch.no_grad():
            points -= rate * n * gradient / 2
        path.append(points.detach().numpy().copy())
        losses.append(float(value.detach()))
    return path, losses


# %%
# The entropic cost shrinks what it moves
# ---------------------------------------
# Without ``debias`` the loss is the entropic cost, which is smallest for a cloud that is narrower than the target by
# about the root of ``reg``. The divergence is smallest, and 0, at the target itself.

radii = np.linalg.norm(ring, axis=1)
print(f"target: radii {radii.mean():.3f} ± {radii.std():.3f}")
flows = {f"debias={debias}": flow(SinkhornLoss(reg, debias=debias)) for debias in (False, True)}
figure, panels = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained", width_ratios=[1, 1, 1, 1.2])
panels[0].scatter(*disc.T, s=4)
panels[0].set_title("start")
for axes, (name, (path, losses)) in zip(panels[1:3], flows.items(), strict=True):
    axes.scatter(*ring.T, s=4, color="0.8", label="target")
    axes.scatter(*path[-1].T, s=4)
    axes.set_title(name)
    panels[3].plot(losses, label=name)
    radii = np.linalg.norm(path[-1], axis=1)
    print(f"{name}: last loss {losses[-1]:.4f}, radii {radii.mean():.3f} ± {radii.std():.3f}")
for axes in panels[:3]:
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", xticks=[], yticks=[])
panels[3].set(xlabel="step", ylabel="loss")
panels[3].set_yscale("symlog", linthresh=1e-3)
panels[3].legend()
plt.show()
