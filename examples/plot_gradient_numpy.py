"""
A gradient without an autograd library
======================================

``otkit.vjp`` gives the gradients of a result in NumPy, and SciPy's optimizers can use them.
"""

# %%
# Which costs explain a plan?
# ---------------------------
# Ten producers ship to eight consumers. Observed are the amounts, with some noise. The costs are unknown but for a
# model: a price per distance, and a toll for every producer and consumer in different countries.

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

import otkit

rng = np.random.default_rng(0)
x, y = rng.random((10, 2)), rng.random((8, 2))
features = np.stack([np.hypot(*(x[:, None] - y).T).T, np.not_equal.outer(x[:, 0] > 0.5, y[:, 0] > 0.5)])
truth, reg = np.array([1.0, 0.5]), 0.3
shipped = otkit.solve(np.tensordot(truth, features, 1), reg=reg).plan
observed = shipped * rng.lognormal(sigma=0.1, size=shipped.shape)
a, b = observed.sum(1), observed.sum(0)

# %%
# The gradient of a misfit
# ------------------------
# A function of the plan has a derivative by the plan, which is simple; ``vjp`` turns it into one by the costs, and the
# rest is the chain rule.


def misfit(prices):
    """The mean square between the plan for these prices and the observed one, in mean amounts, and its gradient."""
    result = otkit.solve(np.tensordot(prices, features, 1), a, b, reg=reg, tol=1e-10)
    off = (result.plan - observed) * observed.size
    by_costs = otkit.vjp(result, plan=2 * off).C
    return (off**2).mean(), np.tensordot(features, by_costs, 2)


path = [np.zeros(2)]
found = minimize(misfit, path[0], jac=True, callback=lambda p: path.append(p.copy()), method="BFGS")
print(f"prices: true {truth}, found {found.x.round(3)}, in {len(path) - 1} steps")

# %%
# The way there
# -------------

grid = np.linspace(-0.2, 1.6, 25)
values = np.array([[misfit(np.array([p, q]))[0] for p in grid] for q in grid])
figure, axes = plt.subplots(figsize=(4.5, 3.6), layout="constrained")
axes.contour(grid, grid, np.log10(values), 15, cmap="Greys")
axes.plot(*np.array(path).T, "C0.-", label="BFGS")
axes.plot(*truth, "C3*", ms=12, label="truth")
axes.set(xlabel="price per distance", ylabel="toll")
axes.legend()
plt.show()
