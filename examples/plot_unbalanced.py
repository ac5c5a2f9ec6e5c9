"""
Outliers and unbalanced transport
=================================

Balanced transport has to carry all mass, that of outliers too. Unbalanced transport leaves what is too far away.
"""

# %%
# Two clouds and some outliers
# ----------------------------
# The target is a second cloud, to the right of the source. A tenth of its points are outliers, which lie far above.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

import otkit

rng = np.random.default_rng(0)
n, far = 60, 6
x = rng.normal(scale=0.5, size=(n, 2))
y = rng.normal(scale=0.5, size=(n, 2)) + np.array([1.5, 0.0])
y[:far] = rng.normal(scale=0.3, size=(far, 2)) + np.array([0.75, 7.0])

# %%
# Three penalties
# ---------------
# ``unbalanced`` is the penalty ρ on the Kullback–Leibler divergence of a marginal, in units of the cost. Between two
# points of mass 1 at a distance d, with nothing else around, the mass exp(−d²/(2ρ + reg)) moves: far beyond √ρ hardly
# any does. A pair sets the penalty of each side. With ``(inf, rho)`` all of the source is sent, but the target may
# receive less, or more, than its weights.

rho, reg = 5.0, 0.1
cases = {
    "balanced": otkit.solve_sample(x, y, reg=reg),
    f"unbalanced = {rho:g}": otkit.solve_sample(x, y, reg=reg, unbalanced=rho),
    f"unbalanced = (inf, {rho:g})": otkit.solve_sample(x, y, reg=reg, unbalanced=(np.inf, rho)),
}
for name, result in cases.items():
    sent, received = result.marginals
    print(f"{name:23}  mass sent {sent.sum():.3f}, received by the outliers {received[:far].sum():.4f}")

# %%
# Mass kept against ρ
# -------------------
# ρ may be an array, like every other argument. Between the squared distance of the clouds and that of the outliers
# there is a range of ρ in which the cloud receives most of its mass and the outliers next to none.

penalties = np.geomspace(0.1, 1000, 25)
received = otkit.solve_sample(x, y, reg=reg, unbalanced=penalties).marginals[1] * n

# %%
# The divergence
# --------------
# How much do the outliers add? The balanced divergence is mostly theirs, the unbalanced one much less.

for penalty in (None, rho):
    with_them, without = (float(otkit.sinkhorn_divergence(x, z, reg=reg, unbalanced=penalty)) for z in (y, y[far:]))
    print(f"unbalanced = {penalty}:  with outliers {with_them:.3f}, without {without:.3f}")

figure = plt.figure(figsize=(10, 4.2), layout="constrained")
panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.5])
for axes, (name, result) in zip(panels[:3], cases.items(), strict=True):
    arcs = result.plan_sparse()
    lines = np.stack([x[arcs.row], y[arcs.col]], axis=1)
    axes.add_collection(LineCollection(lines, colors="k", alpha=np.clip(arcs.mass * n, 0, 1), linewidths=1))
    axes.scatter(*x.T, s=12, color="C0", zorder=2)
    axes.scatter(*y.T, s=12, color="C3", zorder=2)
    axes.set(title=name, aspect="equal", xticks=[], yticks=[])
panels[3].plot(penalties, received[:, far:].mean(axis=1), "C3.-", label="cloud")
panels[3].plot(penalties, received[:, :far].mean(axis=1), "C1.-", label="outliers")
panels[3].set(xscale="log", xlabel="ρ", ylabel="mass received / weight")
panels[3].axvline(rho, color="k", lw=0.8, ls=":", label=f"ρ = {rho:g}")
panels[3].legend()
plt.show()
