"""
Two histograms on a line
========================

The exact distance between two histograms, the entropic plans at several regularisations, and how a plan is read beside
its marginals.
"""

# %%
# Two histograms
# --------------
# The centres of the bins are points on a line, as a column ``(n, 1)``. The counts are the masses, divided by their
# total. Both histograms have bins of their own.

import matplotlib.pyplot as plt
import numpy as np

import otkit

rng = np.random.default_rng(0)
two_humps = np.r_[rng.normal(2, 0.6, 2000), rng.normal(6, 1.0, 4000)]
counts_a, edges_a = np.histogram(two_humps, bins=60, range=(0, 10))
counts_b, edges_b = np.histogram(np.r_[rng.normal(4, 0.5, 4000), rng.normal(8, 0.6, 2000)], bins=75, range=(0, 10))
x, y = (((edges[1:] + edges[:-1]) / 2)[:, None] for edges in (edges_a, edges_b))
a, b = counts_a / counts_a.sum(), counts_b / counts_b.sum()

# %%
# The exact distance
# ------------------
# On a line the plan that keeps the order is optimal. It takes one sort, and the interval around the distance has the
# width of the rounding error. W1 is the area between the two distribution functions.

for p in (1, 2):
    print(otkit.wasserstein(x, y, a, b, p=p))

# %%
# The entropic plans
# ------------------
# ``reg`` is in units of the cost, here a squared distance: at ``reg`` = 0.01 mass spreads over about 0.1 along the
# line, the root of it. An array of regularisations is a batch of problems. As ``reg`` falls, the cost of the plan falls
# towards the optimum.

exact = otkit.solve_sample(x, y, a, b)
reg = np.array([10.0, 1.0, 0.1, 0.01])
entropic = otkit.solve_sample(x, y, a, b, reg=reg)
for r, cost, n_iter in zip(reg, entropic.value_linear, entropic.n_iter, strict=True):
    print(f"reg = {r:5}:  ⟨C, P⟩ = {cost:.5f}, {n_iter} iterations")
print(f"optimum:      ⟨C, P⟩ = {exact.value:.5f}")

# %%
# Plans beside their marginals
# ----------------------------
# The rows of a plan sum to the histogram on the left of it, its columns to the one above. The exact plan is a
# staircase, drawn here as a line through its arcs. A large ``reg`` brings the plan close to the
# product of the histograms.

figure = plt.figure(figsize=(10, 3.7), layout="constrained")
grid = figure.add_gridspec(2, 5, width_ratios=[1, 3, 3, 3, 3], height_ratios=[1, 3])
side = figure.add_subplot(grid[1, 0])
side.fill_betweenx(x[:, 0], a, color="C0", step="mid")
side.set(ylim=(10, 0), xticks=[], ylabel="x")
side.invert_xaxis()
arcs = exact.plan_sparse()
order = np.lexsort((arcs.col, arcs.row))
for k, r in enumerate(reg):
    top = figure.add_subplot(grid[0, k + 1])
    top.fill_between(y[:, 0], b, color="C3", step="mid")
    top.set(xlim=(0, 10), xticks=[], yticks=[], title=f"reg = {r:g}")
    main = figure.add_subplot(grid[1, k + 1])
    plan = entropic.plan[k]
    main.imshow(plan, cmap="gray_r", extent=(0, 10, 10, 0), aspect="auto", vmax=np.quantile(plan, 0.99))
    main.plot(y[arcs.col[order], 0], x[arcs.row[order], 0], color="C1", lw=0.8, label="exact plan")
    main.set(yticks=[], xlabel="y")
figure.axes[2].legend(loc="lower left", frameon=False, fontsize="small")
plt.show()
