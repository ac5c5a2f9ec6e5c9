"""The Newton step and its line search."""

import numpy as np
import pytest

import otkit
from otkit.linalg.cg import Memory
from otkit.problems import LinearProblem
from otkit.solvers import SparseNewton
from otkit.solvers.descent import begin
from otkit.solvers.sns import descend, newton
from otkit.solvers.sns.dual import Entries, evaluate


@pytest.mark.parametrize("unbalanced", [None, (0.3, 2.0), (np.inf, 0.5), (0.7, np.inf)])
@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_with_every_entry_it_is_newtons_method(unbalanced, shape, rng):
    # Against the Hessian of the dual in g by finite differences of its gradient.
    C, a, b, reg = rng.random(shape), rng.random(shape[0]), rng.random(shape[1]), 0.05
    a, b = (a / a.sum(), b / b.sum()) if unbalanced is None else (a, b)
    problem = LinearProblem.build(otkit.Dense(C), a, b, reg, unbalanced)
    state = begin(problem, 0.05 * rng.standard_normal((1, shape[1])), problem.reg)

    def at(g):
        return evaluate(problem, state.f, g, problem.reg, 1e-12)

    here = at(state.g)
    listed = Entries.largest(problem, here, problem.reg, 1.0)
    move, _, sparse = newton.direction(problem, here, problem.reg, listed, 0.0, 0.0, Memory())
    assert sparse.kept == C.size
    assert sparse.dropped < 1e-14
    step = 1e-6
    hessian = [
        (at(state.g + step * e).gradient - at(state.g - step * e).gradient) / (2 * step) for e in np.eye(shape[1])
    ]
    residual = np.array(hessian) @ move + here.gradient
    # Conjugate gradients stop early: their residual is a fraction of the gradient, in another norm.
    assert abs(residual).sum() <= 2 * min(0.1, here.error**0.5) * abs(here.gradient).sum()


@pytest.mark.parametrize("unbalanced", [None, (0.3, 2.0), (np.inf, 0.5), (0.7, np.inf)])
def test_the_rise_of_the_dual_is_the_difference_of_its_values(unbalanced, rng):
    C, a, b, reg = rng.random((15, 20)), rng.random(15), rng.random(20), 0.05
    a, b = (a / a.sum(), b / b.sum()) if unbalanced is None else (a, b)
    problem = LinearProblem.build(otkit.Dense(C), a, b, reg, unbalanced)
    rho_a, rho_b = unbalanced or (np.inf, np.inf)

    def earned(w, potential, rho):
        return w @ potential if rho == np.inf else rho * (w @ (1 - np.exp(-potential / rho)))

    def dual(f, g):
        f, g = f[0] + problem.reduced.row[0], g[0] + problem.reduced.col[0]
        P = np.exp((f[:, None] + g - C) / reg) * problem.a[0][:, None] * problem.b[0]
        return earned(problem.a[0], f, rho_a) + earned(problem.b[0], g, rho_b) - reg * P.sum()

    state = begin(problem, np.zeros((1, 20)), problem.reg)
    points = []
    for size in (0.0, 0.1):
        g = state.g + size * rng.standard_normal((1, 20))
        points.append(evaluate(problem, state.f, g, problem.reg, 1e-12))
    wanted = dual(points[1].f, points[1].g) - dual(points[0].f, points[0].g)
    assert newton._rise(problem, *points, problem.reg) == pytest.approx(wanted, rel=1e-9, abs=1e-14)


def test_the_tail_is_quadratic():
    # The error after a full step is about its square, down to rounding.
    C = np.random.default_rng(0).random((300, 300))
    errors = []
    method = SparseNewton(keep=1.0, factor=np.inf, sweeps=100, tol=1e-12)
    search = newton.search

    def spy(part, at, *rest):
        errors.append(at.error)
        return search(part, at, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descend, "search", spy)
        patch.setattr(newton, "_FORCING", 1e-12)
        assert otkit.solve(C, reg=2e-3, method=method).converged
    before, after = errors[-2:]
    assert before < 1e-6
    assert after < before**1.6


def test_a_step_that_overflows_is_no_progress(rng):
    problem = LinearProblem.build(otkit.Dense(rng.random((30, 20))), None, None, 1e-3)
    state = begin(problem, np.zeros((1, 20)), problem.reg)
    at = evaluate(problem, state.f, state.g, problem.reg, 1e-9)
    wild = at.gradient * 1e300
    with np.errstate(over="raise", invalid="raise"):
        to, whole = newton.search(problem, at, problem.reg, wild, 1e-9)
    assert np.isfinite(to.error)
    assert newton._rise(problem, at, to, problem.reg) >= 0
    assert not whole or to.error < at.error
    for bad in (np.full(20, np.nan), -at.gradient):
        to, whole = newton.search(problem, at, problem.reg, bad, 1e-9)
        assert not whole
        assert np.array_equal(to.g, at.following)
