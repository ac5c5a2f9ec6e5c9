"""
Two clouds of points
====================

The W2 distance between two clouds in the plane, the plan that attains it, and how the plan spreads when the problem is
regularised.
"""

# %%
# Two clouds
# ----------
# A noisy ring and a bar. The masses are uniform, which is the default.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

import otkit

rng = np.random.default_rng(0)
angle = 2 * np.pi * np.arange(24) / 24
x = np.column_stack([np.cos(angle), np.sin(angle)]) + rng.normal(scale=0.08, size=(24, 2))
y = np.column_stack([rng.uniform(2.0, 2.6, 18), np.linspace(-1.5, 1.5, 18)])

# %%
# The distance
# ------------
# The result prints the distance with an interval that contains the true one. ``rtol`` says how narrow it has to be.

distance = otkit.wasserstein(x, y, rtol=1e-4)
print(distance)
print(f"width of the interval: {distance.upper - distance.lower:.1e}")

# %%
# The regularised problem
# -----------------------
# ``reg`` is in units of the cost, which is the squared distance here. The plan moves the mass at a higher cost, and has
# no zeros: we count the entries that carry at least 1 % of the mass of their row.

weak = otkit.solve_sample(x, y, reg=0.1)
strong = otkit.solve_sample(x, y, reg=2.0)
for name, result in (("no reg", distance.result), ("reg = 0.1", weak), ("reg = 2", strong)):
    entries = int((result.plan > 0.01 / len(x)).sum())
    print(f"{name:9}  ⟨C, P⟩ = {float(result.value_linear):.4f}, {entries} entries")

# %%
# The plans
# ---------
# A line for every arc, as dark as the share that it has in the mass of its point on the left. With a larger ``reg`` the
# plan comes closer to the product of the masses.


def draw(axes, result, title):
    """Draw the plan of a result on the axes."""
    arcs = result.plan_sparse()
    lines = np.stack([x[arcs.row], y[arcs.col]], axis=1)
    share = np.clip(arcs.mass * len(x), 0, 1)
    axes.add_collection(LineCollection(lines, colors="k", alpha=share, linewidths=1.2))
    axes.scatter(*x.T, s=16, color="C0", zorder=2)
    axes.scatter(*y.T, s=16, color="C3", zorder=2)
    axes.set(title=title, aspect="equal", xticks=[], yticks=[])


figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
draw(panels[0], distance.result, "no regularisation")
draw(panels[1], weak, "reg = 0.1")
draw(panels[2], strong, "reg = 2")
plt.show()
