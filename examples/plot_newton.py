"""
A small regularisation
======================

Sinkhorn's sweeps need thousands of iterations if the plan is close to a matching. Sinkhorn-Newton-Sparse, the default,
takes Newton steps with a sparse plan there. The example plots the error of both against the time.
"""

# %%
# The problem
# -----------
# Two clouds in 64 dimensions, and a thousandth of the largest cost for the regularisation. That is little here: in many
# dimensions all distances are similar, and the plan is close to a matching.

import time

import matplotlib.pyplot as plt
import numpy as np

import otkit

rng = np.random.default_rng(0)
x, y = rng.normal(size=(2, 400, 64))
C = ((x[:, None] - y) ** 2).sum(-1)
reg = 1e-3 * C.max()

# %%
# Both methods
# ------------
# The callback receives the error after every step. ``sweeps`` makes the steps short, for a fine curve. The first solve
# of each compiles its loops.


def timed(method):
    """Solve, and return the result with the times and errors of the last stage."""
    otkit.solve(C, reg=reg, method=method)
    start, seen = time.perf_counter(), []

    def record(progress):
        if progress.reg[0] <= reg:
            seen.append((time.perf_counter() - start, progress.error[0]))

    return otkit.solve(C, reg=reg, method=method, callback=record), np.array(seen).T


sweeps, sweeps_seen = timed(otkit.Sinkhorn(tol=1e-8, sweeps=10))
newton, newton_seen = timed(otkit.SparseNewton(tol=1e-8, sweeps=10))
for result in (sweeps, newton):
    print(f"{result.method:9} {result.n_iter} iterations, error {result.error:.1e}")

# %%
# The stages
# ----------
# The regularisation falls by a factor of 4 per stage. Of the 160,000 entries of the plan, a Newton step keeps a
# few thousand.

for stage in newton.stages:
    print(
        f"reg {stage.reg:7.4f}  {stage.n_iter - stage.newton_steps:4} sweeps  {stage.newton_steps} Newton steps  "
        f"{stage.kept:5} entries  error {stage.error:.0e}"
    )

# %%
# Error against time
# ------------------
# The last stage only, with the time since the start. Sweeps gain a digit ever more slowly; near the solution a Newton
# step doubles the digits.

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.semilogy(*sweeps_seen, ".-", label="Sinkhorn, accelerated sweeps")
axes.semilogy(*newton_seen, "o-", label="Sinkhorn-Newton-Sparse")
axes.set(xlabel="seconds", ylabel="error")
axes.legend()
plt.show()
