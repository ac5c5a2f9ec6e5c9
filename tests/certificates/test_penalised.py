"""The bounds of problems whose marginals are penalised."""

import numpy as np
import ot
import pytest
from strategies import random_case

import otkit


def penalised(C, a, b, rho_a, rho_b, P):
    """⟨C, P⟩ + ρ_a·KL(P1 | a) + ρ_b·KL(Pᵀ1 | b), for finite ρ."""
    kl = lambda p, w: (np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / w), 0) - p + w).sum()  # noqa: E731
    return (C * P).sum() + rho_a * kl(P.sum(1), a) + rho_b * kl(P.sum(0), b)


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("seed", range(18))
def test_unbalanced_bounds_contain_the_optimum_and_close(seed):
    rng = np.random.default_rng(seed)
    case = random_case(seed, n=12, m=9)
    C = case.C - (case.C.mean() if seed % 5 == 4 else 0)  # of both signs
    a, b = case.a * 10 ** rng.uniform(-1, 1), case.b * 10 ** rng.uniform(-1, 1)
    rho_a, rho_b = 10 ** rng.uniform(-1, 1.5, 2) * case.span
    rho_a, rho_b = ((rho_a, rho_b), (np.inf, rho_b), (rho_a, 0.0))[seed % 3]
    results = [otkit.solve(C, a, b, reg=r * case.span, unbalanced=(rho_a, rho_b)) for r in (0.3, 1e-2, 1e-3)]
    results.append(otkit.solve(C, a, b, reg=1e-3 * case.span, unbalanced=(rho_a, rho_b), max_iter=1))
    lower, upper = max(r.lower for r in results), min(r.upper for r in results)
    scale = case.span * max(a.sum(), b.sum())
    assert lower <= upper
    assert results[0].gap > results[1].gap > results[2].gap
    assert results[2].gap < 2e-2 * scale
    if seed % 3 == 0 and C.min() >= 0:  # the optimum by another method, which comes to it from above
        P = ot.unbalanced.mm_unbalanced(a, b, C, (rho_a, rho_b), div="kl", numItermax=20_000, stopThr=1e-13)
        assert lower <= penalised(C, a, b, rho_a, rho_b, P)
        assert upper <= penalised(C, a, b, rho_a, rho_b, P) + 2e-2 * scale


def test_bounds_of_a_batch_that_is_balanced_in_part(rng):
    C, a, b = rng.random((3, 8, 6)), rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(6))
    rho = np.array([np.inf, 0.5, 0.0])
    together = otkit.solve(C, a, b, reg=0.01, unbalanced=(np.inf, rho))
    for k in range(3):
        alone = otkit.solve(C[k], a, b, reg=0.01, unbalanced=(np.inf, rho[k]))
        assert together.lower[k] == pytest.approx(alone.lower, rel=1e-12)
        assert together.upper[k] == pytest.approx(alone.upper, rel=1e-12)


def test_with_both_marginals_free_the_optimum_is_no_plan():
    C = np.array([[1.0, 2.0], [0.5, 3.0]])
    found = otkit.solve(C, reg=0.1, unbalanced=0.0)
    assert found.lower == 0
    assert found.upper == 0
    assert otkit.solve(-C, reg=1.0, unbalanced=0.0).lower == -np.inf


@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
@pytest.mark.parametrize("reg", [1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("seed", range(6))
def test_bounds_on_a_grid_cover_what_its_passes_round(reg, seed):
    """At a small reg, entries of the plan have an error of u/reg, and another one in each pass along an axis."""
    rng, shape = np.random.default_rng(seed), ((7,), (4, 3), (2, 3, 2))[seed % 3]
    a, b = rng.random((2, *shape)) * (rng.random((2, *shape)) < 0.8)
    a.flat[0] = b.flat[-1] = 0.5
    rho, metric = 10.0 ** rng.uniform(-1, 1.5), ("sqeuclidean", "cityblock")[seed % 2]
    points = np.argwhere(np.ones(shape)).astype(float)
    exact = otkit.solve_sample(points, points, a.ravel(), b.ravel(), metric=metric, unbalanced=rho, rtol=1e-11)
    found = otkit.solve_grid(a, b, metric=metric, unbalanced=rho, reg=reg, max_iter=500)
    assert found.lower <= exact.upper
    assert found.upper >= exact.lower


def test_bounds_on_a_grid_are_wider_by_what_its_passes_round_only():
    exact = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [1.0, 0.0], [0.5, 0.5], unbalanced=1.0, rtol=1e-12)
    for reg in (1e-7, 1e-8, 1e-9, 1e-10):
        found = otkit.solve_grid([1.0, 0.0], [0.5, 0.5], unbalanced=1.0, reg=reg)
        assert found.lower <= exact.upper
        assert exact.lower <= found.upper <= exact.upper + 10 * 2.0**-53 / reg


@pytest.mark.parametrize("solve", [otkit.solve, lambda C, *given, **options: otkit.solve_grid(*given, **options)])
def test_no_bound_is_below_zero_where_no_cost_is(solve):
    for rho in (1e-6, 1e-3):
        found = solve([[1.0, 3.0], [2.0, 0.0]], [0.5, 0.5], [0.3, 0.9], unbalanced=(rho, np.inf), reg=0.1)
        assert 0 <= found.lower <= found.upper < np.inf
