"""
Cells and arcs of many points
=============================

Twenty thousand points are transported between cells, to a proved accuracy. The fewer digits are asked for, the fewer
cells there are.
"""

# %%
# Two clouds
# ----------
# Above 4096 × 4096 pairs, ``solve_sample`` without a ``reg`` cuts both clouds into cells. ``rtol`` bounds the interval.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

import otkit

rng = np.random.default_rng(0)
n = 20_000
angle = rng.uniform(0, np.pi, n)
x = np.stack([np.cos(angle), np.sin(angle)], -1) + 0.12 * rng.normal(size=(n, 2))
y = np.array([1.0, 0.5]) - np.stack([np.cos(angle), np.sin(angle)], -1) + 0.12 * rng.normal(size=(n, 2))

results = {rtol: otkit.solve_sample(x, y, rtol=rtol) for rtol in (0.2, 0.02)}
for result in results.values():
    print(result)

# %%
# Where the mass goes
# -------------------
# The plan is a list of arcs between cells. The mass of an arc is spread over the points of its two cells.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax, (rtol, result) in zip(axes, results.items(), strict=True):
    (plan,) = result.outcome.plan
    ax.plot(*x[::20].T, ",", color="C0", alpha=0.5, rasterized=True)
    ax.plot(*y[::20].T, ",", color="C1", alpha=0.5, rasterized=True)
    means = [
        np.stack([np.bincount(label, share * z) for z in points.T], -1)
        for points, label, share in zip((x, y), plan.labels, plan.shares, strict=True)
    ]
    arcs = np.stack([means[0][plan.rows], means[1][plan.cols]], 1)
    ax.add_collection(LineCollection(arcs, linewidths=2 * plan.mass / plan.mass.max(), colors="0.4"))
    for k, mean in enumerate(means):
        size = np.bincount((plan.rows, plan.cols)[k], plan.mass)
        ax.scatter(*mean.T, s=40 * size / size.max(), color=f"C{k}", zorder=2)
    width = (result.upper - result.lower) / result.upper
    ax.set(
        title=f"{plan.cells[0]} and {plan.cells[1]} cells, {plan.mass.size} arcs: interval {width:.1%}", aspect="equal"
    )
    assert width <= rtol
plt.show()
