"""
The certified interval
======================

From the solution of a regularised problem follow bounds on the optimum of the unregularised one. They close as the
regularisation falls.
"""

# %%
# One problem, many regularisations
# ---------------------------------
# ``reg`` broadcasts like every other argument: an array of eleven solves a batch of eleven problems in one call.

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment

import otkit

rng = np.random.default_rng(0)
x = rng.normal(size=(60, 2))
y = rng.normal(size=(60, 2)) + np.array([2.0, 0.0])
reg = np.geomspace(10.0, 0.01, 11)

result = otkit.solve_sample(x, y, reg=reg)
print(result)

# %%
# The bounds
# ----------
# ``lower`` comes from feasible potentials, ``upper`` from a feasible plan. They hold for any potentials, also for those
# of a solve that stopped early. The regularised value lies above the optimum too, but further away.

print("     reg     lower     upper   value of the regularised problem")
for row in zip(reg, result.lower, result.upper, result.value, strict=True):
    print("{:8.4f}  {:8.5f}  {:8.5f}  {:8.5f}".format(*row))

# %%
# The true optimum
# ----------------
# Sixty points against sixty, all of the same mass: the optimum is an assignment, which SciPy solves exactly.

C = ((x[:, None] - y) ** 2).sum(-1)
optimum = C[linear_sum_assignment(C)].mean()
assert np.all((result.lower <= optimum) & (optimum <= result.upper))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.fill_between(reg, result.lower, result.upper, alpha=0.3, label="certified interval")
left.plot(reg, result.value, "C1.-", label="regularised value")
left.axhline(optimum, color="k", lw=1, label="optimum")
left.set(xscale="log", xlabel="reg", ylabel="squared distance")
left.invert_xaxis()
left.legend()
right.plot(reg, result.gap / optimum, "C0.-")
right.set(xscale="log", yscale="log", xlabel="reg", ylabel="(upper − lower) / optimum")
right.invert_xaxis()
plt.show()
