"""Of a single large problem, only the costs between points with mass are swept and priced."""

import numpy as np
import ot
import pytest
from strategies import distances

import otkit
from otkit.problems.linear import LinearProblem
from otkit.solvers.exact import approach, basis, small, solver


@pytest.fixture(autouse=True, params=["warm", "declined"])
def large(request, monkeypatch):
    """Problems are solved as large ones are: from a plan of sweeps, or from masses after sweeps."""
    monkeypatch.setattr(small, "LARGEST", 0)
    monkeypatch.setattr(solver, "_ALL", 0)
    monkeypatch.setattr(approach, "_HOMELESS", -1.0)
    monkeypatch.setattr(approach, "_NARROW", np.inf if request.param == "warm" else 0.0)


def problem(kind, rng):
    """Costs as they are passed, the same as a matrix, and weights of which many are 0."""
    x, y = rng.random((120, 2)), rng.random((90, 2)) + 0.2
    C = distances(x, y, "sqeuclidean")
    a, b = rng.random(120) * (rng.random(120) < 0.4), rng.random(90) * (rng.random(90) < 0.6)
    a[7] = b[0] = 1.0
    given = {"points": otkit.PointCloud(x, y), "by columns": np.asfortranarray(C)}.get(kind, C)
    if kind == "forbidden":
        C[rng.random(C.shape) < 0.2] = np.inf
    elif kind == "far from zero":
        C += 1e3
    elif kind == "dear without mass":
        C[a == 0] *= 1e6
    return given, C, a / a.sum(), b / b.sum()


def is_feasible(result, C, a, b):
    """Whether the potentials exceed no cost between points with mass."""
    slack, some = C - result.f[:, None] - result.g, np.outer(a > 0, b > 0)
    return np.isfinite(result.f).all() and np.isfinite(result.g).all() and slack[some].min() >= -1e-12


KINDS = ["points", "by columns", "forbidden", "far from zero", "dear without mass"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimum_and_its_proof_are_those_of_all_points(kind, rng):
    given, C, a, b = problem(kind, rng)
    result = otkit.solve(given, a, b)
    rows, cols = a > 0, b > 0
    wanted = ot.emd2(a[rows], b[cols], np.where(np.isfinite(C), C, 1e3)[np.ix_(rows, cols)])
    assert result.converged
    assert float(result.value) == pytest.approx(wanted, rel=1e-12)
    plan = result.plan_sparse()
    assert plan.mass.size <= rows.sum() + cols.sum() - 1
    assert rows[plan.row].all()
    assert cols[plan.col].all()
    assert abs(np.bincount(plan.row, plan.mass, a.size) - a).max() <= 1e-15
    slack = C - result.f[:, None] - result.g
    assert is_feasible(result, C, a, b)
    assert abs(slack[plan.row, plan.col]).max() <= 1e-12 * C[plan.row, plan.col].max()


def test_sweeps_read_the_costs_between_points_with_mass(rng, monkeypatch):
    seen = []
    monkeypatch.setattr(
        approach.descent,
        "advance",
        lambda problem, *rest, advance=approach.descent.advance: (
            seen.append(problem.reduced) or advance(problem, *rest)
        ),
    )
    given, _, a, b = problem("points", rng)
    otkit.solve(given, a, b)
    assert {(costs.n, costs.m) for costs in seen} == {((a > 0).sum(), (b > 0).sum())}
    assert seen[0].matrix is not None  # formed once


def test_only_costs_between_points_with_mass_are_formed(rng, monkeypatch):
    formed = []
    monkeypatch.setattr(
        basis, "filled", lambda costs, fill=basis.filled: formed.append(costs.n * costs.m) or fill(costs)
    )
    given, C, a, b = problem("points", rng)
    entries = int((a > 0).sum() * (b > 0).sum())
    for most, expected in ((entries, {entries}), (entries - 1, set())):
        formed.clear()
        monkeypatch.setattr(solver, "_FORMED", most)
        result = otkit.solve(given, a, b)
        assert set(formed) == expected
        assert float(result.value) == pytest.approx(ot.emd2(a, b, C), rel=1e-12)
        assert is_feasible(result, C, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_ends_during_the_sweeps_has_bounds_for_all_points(kind, rng):
    given, C, a, b = problem(kind, rng)
    optimum = float(otkit.solve(given, a, b).value)
    for options, message in (({"callback": lambda progress: True}, "Stopped"), ({"max_iter": 1}, "max_iter")):
        with pytest.warns(otkit.ConvergenceWarning, match=message):
            result = otkit.solve(given, a, b, **({"method": "exact"} | options))
        assert len(result.stages) == 1
        assert result.f.shape == a.shape
        assert result.g.shape == b.shape
        assert float(result.lower) <= optimum + 1e-12
        assert optimum - 1e-12 <= float(result.upper)
        assert is_feasible(result, C, a, b)
        if kind == "forbidden":  # rounding may need arcs that are not there
            continue
        assert float(result.upper) < np.inf
        P = np.asarray(result.plan)
        np.testing.assert_allclose(P.sum(1), a, atol=1e-14)
        np.testing.assert_allclose(P.sum(0), b, atol=1e-14)


def test_a_batch_is_swept_as_it_is(rng):
    _, C, a, b = problem("points", rng)
    batch = LinearProblem.build(otkit.Dense(C), np.stack([a, a[::-1]]), b)
    assert approach.begin(batch).core is batch
    values = otkit.solve(C, np.stack([a, a[::-1]]), b).value
    for value, weights in zip(values, (a, a[::-1]), strict=True):
        assert float(value) == pytest.approx(ot.emd2(weights, b, C), rel=1e-12)
