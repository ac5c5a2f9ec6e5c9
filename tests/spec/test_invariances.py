"""What must not change, and what must change along."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_case

import otkit

seeds = st.integers(0, 10_000)
TOL = 1e-10


def solve(case, C=None, a=None, b=None, reg=0.05, **options):
    C = case.C if C is None else C
    return otkit.solve(
        C, case.a if a is None else a, case.b if b is None else b, reg=reg * case.span, tol=TOL, **options
    )


def close(one, other, scale, rtol=1e-6):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * scale)


@given(seeds, st.integers(-40, 40))
def test_scaling_costs_and_reg_scales_the_answer(seed, exponent):
    case, scale = random_case(seed, 15, 12), 2.0**exponent
    one, other = solve(case), solve(case, C=case.C * scale, reg=0.05 * scale)
    np.testing.assert_array_equal(one.plan, other.plan)
    np.testing.assert_array_equal(one.f * scale, other.f)
    np.testing.assert_allclose(one.value * scale, other.value, rtol=1e-12)
    assert one.n_iter == other.n_iter


@pytest.mark.parametrize("exponent", [-1000, 1015])
@pytest.mark.parametrize("n", [7, 150])
def test_costs_near_the_smallest_and_largest_numbers(rng, n, exponent):
    C, scale = rng.random((n, n + 2)), 2.0**exponent
    for options in ({}, {"time_limit": 60.0}):
        one, other = (otkit.solve(C * by, reg=0.01 * by, tol=TOL, **options) for by in (1.0, scale))
        close(other.plan, one.plan, 1 / n**2)
        for name in ("value", "lower", "upper"):
            np.testing.assert_allclose(getattr(other, name) / scale, getattr(one, name), rtol=1e-8)


@given(seeds, st.sampled_from([1e-8, 3.0, 1e8]))
def test_any_unit_of_the_cost_gives_the_same_plan(seed, scale):
    case = random_case(seed, 15, 12)
    one, other = solve(case), solve(case, C=case.C * scale, reg=0.05 * scale)
    close(one.plan, other.plan, 1 / 180)
    close(one.f * scale, other.f, case.span * scale)


@given(seeds)
def test_plans_do_not_see_offsets_of_rows_and_columns(seed):
    case, rng = random_case(seed, 15, 12), np.random.default_rng(seed)
    r, c = 10 * case.span * rng.standard_normal(15), 10 * case.span * rng.standard_normal(12)
    one, other = solve(case), solve(case, C=case.C + r[:, None] + c)
    close(one.plan, other.plan, 1 / 180)
    close(one.value + r @ case.a + c @ case.b, other.value, 10 * case.span)
    close(one.f[:, None] + one.g + r[:, None] + c, other.f[:, None] + other.g, 10 * case.span)


@given(seeds)
def test_swapping_the_sides_transposes_the_plan(seed):
    case = random_case(seed, 15, 12)
    one, other = solve(case), solve(case, C=case.C.T, a=case.b, b=case.a)
    close(one.plan, other.plan.T, 1 / 180)
    close(one.f, other.g, case.span)
    close(one.value, other.value, case.span)


@given(seeds)
def test_permuting_the_points_permutes_the_plan(seed):
    case, rng = random_case(seed, 15, 12), np.random.default_rng(seed)
    i, j = rng.permutation(15), rng.permutation(12)
    one, other = solve(case), solve(case, C=case.C[np.ix_(i, j)], a=case.a[i], b=case.b[j])
    close(one.plan[np.ix_(i, j)], other.plan, 1 / 180)


@given(seeds)
def test_splitting_a_point_splits_its_row(seed):
    case = random_case(seed, 15, 12)
    C, a = np.vstack([case.C, case.C[:1]]), np.append(case.a, case.a[0] / 3)
    a[0] *= 2 / 3
    one, other = solve(case), solve(case, C=C, a=a)
    close(one.plan[0] * 2 / 3, other.plan[0], 1 / 180)
    close(one.plan[0] / 3, other.plan[-1], 1 / 180)
    close(one.f[0], other.f[-1], case.span)
    close(one.value, other.value, case.span)


@given(seeds)
def test_distances_are_those_of_a_metric(seed):
    rng = np.random.default_rng(seed)
    x, y, z = (rng.random((8, 2)) for _ in range(3))
    xy, yz, xz = (otkit.wasserstein(*pair) for pair in ((x, y), (y, z), (x, z)))
    assert xz.lower <= xy.upper + yz.upper + 1e-12
    back = otkit.wasserstein(y, x)
    assert max(xy.lower, back.lower) <= min(xy.upper, back.upper) + 1e-12
    moved = otkit.wasserstein(x + [3.0, 4.0], y + [3.0, 4.0])
    assert max(xy.lower, moved.lower) <= min(xy.upper, moved.upper) + 1e-12
    shifted = otkit.wasserstein(x, x + [0.3, 0.4], rtol=1e-9)
    np.testing.assert_allclose(shifted.distance, 0.5, rtol=1e-9)
