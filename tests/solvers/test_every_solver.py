"""What holds of every solver, by its name in `SOLVERS`: hard cases, and the potentials that it starts from."""

from dataclasses import replace
from inspect import signature

import numpy as np
import ot
import pytest
from checks import check_entropic
from scipy.special import logsumexp
from strategies import hard_cases

import otkit
from otkit.solvers import SOLVERS

ENTROPIC = ("sns", "sinkhorn")
# Solvers of grids, of which `grid` has the hard cases.
GRIDS = {"coarse-to-fine": "sqeuclidean", "flow": "cityblock"}
LINE = "a line, absolute cost"


def solve(name, case, **options):
    """The case by this solver: between points where the solver needs them, else for the cost matrix."""
    if name in ENTROPIC:
        options["reg"] = 0.05 * case.span
    if name in GRIDS:
        return otkit.solve_grid(
            case.a.reshape(6, -1), case.b.reshape(6, -1), metric=GRIDS[name], method=name, **options
        )
    if name in ("univariate", "multiscale"):
        return otkit.solve_sample(case.x, case.y, case.a, case.b, metric=case.metric, method=name, **options)
    return otkit.solve(case.C, case.a, case.b, method=name, **options)


def solvable(name):
    if name == "multiscale":
        return [hard for hard, case in hard_cases().items() if case.x is not None]
    return [] if name in GRIDS else [LINE] if name == "univariate" else list(hard_cases())


@pytest.mark.parametrize(("name", "hard"), [(name, hard) for name in SOLVERS for hard in solvable(name)])
def test_hard_cases(name, hard):
    case = hard_cases()[hard]
    result = solve(name, case)
    assert result.method == name
    assert result.converged
    if name in ENTROPIC:
        check_entropic(result, case.C, case.a, case.b, 0.05 * case.span)
    exact = ot.emd2(case.a, case.b, np.where(np.isfinite(case.C), case.C, 1e4))
    slack = 1e-11 * abs(case.C[np.isfinite(case.C)]).max()
    assert result.lower - slack <= exact <= result.upper + slack


@pytest.mark.parametrize("name", SOLVERS)
def test_init_is_used_or_refused(name):
    # On a line most arcs are tight, so that potentials do not say where the masses go.
    case = hard_cases()["negative costs" if name == "exact" else LINE]
    cold = solve(name, case)
    if "init" in SOLVERS[name].refuses:
        with pytest.raises(ValueError, match=f"init does not apply to method '{name}'; .*drop init="):
            solve(name, case, init=cold)
        return
    warm = solve(name, case, init=cold)
    assert warm.converged
    assert warm.n_iter < cold.n_iter
    assert float(warm.value) == pytest.approx(
        float(cold.value), rel=1e-5 if name not in ("annealing", "frank-wolfe") else 1e-2
    )


@pytest.mark.parametrize(("shape", "share"), [((40, 30), 0.5), ((300, 260), 1.0)], ids=["all arcs", "few arcs"])
def test_the_simplex_goes_on_from_what_is_given(shape, share, rng):
    C, a, b = rng.random(shape), rng.dirichlet(np.ones(shape[0])), rng.dirichlet(np.ones(shape[1]))
    cold = otkit.solve(C, a, b)
    near = C + 1e-3 * rng.random(shape)
    warm = otkit.solve(near, a, b, init=cold)
    assert warm.method == "exact"
    assert warm.n_iter < share * otkit.solve(near, a, b).n_iter
    assert float(warm.value) == pytest.approx(ot.emd2(a, b, near), rel=1e-12)


@pytest.mark.parametrize("shape", [(41, 33), (300, 260)], ids=["all arcs", "few arcs"])
@pytest.mark.parametrize("size", [1.0, 10.0, 1e6, 1e12])
@pytest.mark.parametrize("forbidden", [False, True])
def test_a_useless_start_changes_no_answer(shape, size, forbidden, rng):
    C = rng.random(shape)
    C[3, : shape[1] // 2] = np.inf if forbidden else 1.0
    wanted = otkit.solve(C)
    found = otkit.solve(C, init=tuple(size * rng.normal(size=k) for k in shape))
    assert found.converged
    assert float(found.value) == pytest.approx(float(wanted.value), rel=1e-12)
    assert found.gap <= 1e-12


def test_the_published_method_sweeps_plainly_from_a_given_start(rng):
    C, g, reg, count = rng.random((23, 17)), rng.normal(size=17), 0.02, 12
    method = otkit.SparseNewton(keep=0.2, factor=np.inf, sweeps=count, max_iter=count, tol=1e-15)
    with pytest.warns(otkit.ConvergenceWarning):
        result = otkit.solve(C, reg=reg, method=method, init=(np.zeros(23), g))
    for _ in range(count):
        f = -reg * logsumexp((g - C) / reg - np.log(17), axis=1)
        before, g = g, -reg * logsumexp((f[:, None] - C) / reg - np.log(23), axis=0)
    assert result.n_iter == count
    plan = np.exp((f[:, None] + before - C) / reg) / (23 * 17)
    np.testing.assert_allclose(result.plan, plan, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (dict(keep=0.1, factor=np.inf, stage_tol=1e-3), ValueError, "stage_tol= does not apply"),
        (dict(keep=0.1, factor=np.inf, n_iters=3), TypeError, "got n_iters"),
    ],
)
def test_the_published_method_has_no_stages(options, kind, message):
    with pytest.raises(kind, match=message):
        otkit.SparseNewton(**options)


@pytest.mark.parametrize("method", [otkit.Sinkhorn, otkit.SparseNewton], ids=lambda method: method.name)
def test_signatures_show_every_option(method):
    assert list(signature(method).parameters) == list(signature(method.__init__).parameters)[1:]
    assert {"tol", "max_iter", "factor", "stage_tol", "sweeps"} < set(signature(method).parameters)


def test_a_solver_is_replaced_by_one_of_another_class():
    counted = replace(otkit.Sinkhorn(), n_iters=4)
    assert repr(counted) == "Sinkhorn(n_iters=4, last='cols')"
    assert otkit.solve(np.eye(3), reg=1.0, method=counted, max_iter=4).n_iter == 4
    published = replace(otkit.SparseNewton(), keep=0.1, factor=np.inf)
    assert eval(repr(published), {"SparseNewton": otkit.SparseNewton, "inf": np.inf}) == published


@pytest.mark.parametrize("option", ["factor", "stage_tol"])
def test_a_fixed_count_has_no_stages(option):
    with pytest.raises(ValueError, match=f"{option}= does not apply"):
        otkit.Sinkhorn(n_iters=3, **{option: 0.5})
