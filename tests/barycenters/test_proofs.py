"""Bounds of barycenters without a `reg`: the best ones of a run count, however its iterations end."""

import warnings

import numpy as np
import pytest

import otkit
from tests.barycenters.test_barycenter import optimum

SLACK = 1e-9


def whole_costs(seed):
    """Measures, costs of many ties, and an accuracy."""
    rng = np.random.default_rng(seed)
    K, n, m = (int(rng.integers(*ends)) for ends in ((2, 5), (2, 9), (2, 7)))
    return rng.dirichlet(np.full(n, 0.5), K), rng.integers(0, 4, (n, m)) * 1.0, rng.choice([1e-2, 1e-3, 1e-9])


# Iterations of these get worse at a small regularisation.
TIES = whole_costs(40)[:2]
PENALISED = (
    np.array([[0.28, 0.17, 0.13, 0], [0.01] * 4, [0.11, 0, 0, 0.18]]),
    np.array([[1.0, 2, 1, 3], [2, 0, 3, 2], [0, 3, 3, 2], [3, 1, 3, 0]]),
)


def quiet(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", otkit.ConvergenceWarning)
        return otkit.barycenter(*args, **options)


def width(found):
    return found.upper - found.lower


@pytest.mark.parametrize("seed", range(40, 50))
def test_bounds_hold_and_the_status_says_whether_they_meet(seed):
    a, C, rtol = whole_costs(seed)
    best = optimum(a, C, np.full(len(a), 1 / len(a))) if C.max() else 0.0
    for limit in (7, 120):
        found = quiet(a, C=C, rtol=rtol, max_iter=limit)
        assert found.lower <= best + SLACK
        assert best - SLACK <= found.upper
        assert found.converged == (width(found) <= max(rtol * found.upper, 1e-9 * C.max()))
        paid = otkit.solve(C, a, np.tile(found.masses, (len(a), 1))).value.mean()
        assert best - SLACK <= paid <= found.upper + SLACK
        np.testing.assert_allclose(found.masses.sum(), 1.0)


@pytest.mark.parametrize("seed", [2, 9, 40, 43])
def test_the_interval_never_widens(seed):
    a, C, _ = whole_costs(seed)
    gaps = []
    options = dict(unbalanced=0.4) if seed % 2 else {}
    found = quiet(a, C=C, rtol=1e-9, max_iter=200, callback=lambda now: gaps.append(now.gap[0]), **options)
    gaps = np.array(gaps)[np.isfinite(gaps)]
    assert gaps.size
    assert np.all(np.diff(gaps) <= 0)
    assert width(found) <= gaps[-1] * found.upper * (1 + SLACK)


@pytest.mark.parametrize("name", ["ties", "penalised"])
def test_more_iterations_do_not_lose_what_fewer_found(name):
    (a, C), options = (TIES, {}) if name == "ties" else (PENALISED, dict(unbalanced=0.38))
    widths = [width(quiet(a, C=C, rtol=1e-9, max_iter=limit, **options)) for limit in (100, 200, 400)]
    # Where max_iter ends a run amid a stage, there are bounds that a longer one skips.
    assert np.all(np.array(widths[1:]) <= 1.01 * np.array(widths[:-1]))
    assert widths[-1] <= 1e-3


@pytest.mark.parametrize("limit", [30, 600, 10_000])
def test_the_best_interval_counts(limit):
    a, C = TIES
    found = otkit.barycenter(a, C=C, max_iter=limit)
    assert found.converged
    assert found.n_iter <= 100
    assert width(found) <= 1e-2 * found.upper


@pytest.mark.parametrize("rtol", [1e-3, 3e-4, 1e-5])
@pytest.mark.parametrize("penalty", [0.05, 0.38, 2.0, 20.0, 200.0, 2e4])
def test_penalties_of_any_size_converge(penalty, rtol):
    a, C = PENALISED
    if penalty > 1:
        a = a / a.sum(1, keepdims=True)
    found = otkit.barycenter(a, C=C, unbalanced=penalty * C.max() / 3, rtol=rtol, max_iter=1000, strict=True)
    assert width(found) <= rtol * found.upper


def test_a_run_that_was_stopped_has_converged_if_its_interval_meets_the_accuracy():
    a, C = TIES
    steps = []

    def stop(progress):
        steps.append(progress)
        return len(steps) == 6

    assert quiet(a, C=C, callback=stop).converged
    assert quiet(a, C=C, rtol=1e-9, callback=lambda _: True).status is otkit.Status.STOPPED


def test_bounds_of_a_batch_are_those_of_single_calls(rng):
    a, C = TIES
    batch = np.stack([rng.dirichlet(np.ones(a.shape[1]), len(a)), a, a[::-1]])
    found = quiet(batch, C=C, rtol=1e-4, max_iter=150)
    for k, one in enumerate(batch):
        alone = quiet(one, C=C, rtol=1e-4, max_iter=150)
        assert alone.status is found.status[k]
        np.testing.assert_allclose([found.lower[k], found.upper[k]], [alone.lower, alone.upper], rtol=1e-9)
        np.testing.assert_allclose(found.masses[k], alone.masses, atol=1e-9)


@pytest.mark.parametrize("C", [0.0, 5.0])
@pytest.mark.parametrize("reg", [6e-101, 1e-3, 1e30])
def test_equal_costs_need_no_descent(C, reg):
    for debias in (False, True):
        found = otkit.barycenter(np.ones((2, 1)), C=[[C]], reg=reg, debias=debias)
        assert found.converged
        assert found.n_iter <= 2
