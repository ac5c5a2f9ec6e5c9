"""Runs of exactly so many iterations are those of the textbook."""

import warnings

import numpy as np
import pytest
from checks import solved_by
from forms import in_groups
from strategies import random_case

import otkit
from otkit import Sinkhorn
from otkit.arrays import to_numpy

solve, _ = solved_by("sinkhorn")

INF = np.inf


def lse(x, axis):
    top = x.max(axis, keepdims=True)
    return (np.log(np.exp(x - top).sum(axis, keepdims=True)) + top).squeeze(axis)


def textbook(C, a, b, reg, count, last, rho_a=INF, rho_b=INF):
    """Potentials after `count` updates of either side from zero, the side `last` being updated last."""
    f, g = np.zeros(a.size), np.zeros(b.size)
    keep_a, keep_b = (1 if rho == INF else rho / (rho + reg) for rho in (rho_a, rho_b))
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    for _ in range(count):
        for side in ("rows", "cols") if last == "cols" else ("cols", "rows"):
            if side == "rows":
                f = -keep_a * reg * lse((g - C) / reg + log_b, 1)
            else:
                g = -keep_b * reg * lse((f[:, None] - C) / reg + log_a[:, None], 0)
    return f, g, np.exp((f[:, None] + g - C) / reg) * a[:, None] * b


@pytest.fixture(params=[False, True], ids=["small", "large"])
def size(request, monkeypatch):
    """Both forms of the compiled iterations, the large one with several groups of rows."""
    if request.param:
        in_groups(monkeypatch, 20)


def check(result, C, a, b, reg, count, last, rho=(INF, INF)):
    f, g, P = textbook(C, a, b, reg, count, last, *rho)
    scale = max(abs(C).max(), abs(f).max(), abs(g).max())
    # Each half iteration adds a few units of the largest potential, and none of them is magnified later.
    slack = 1e-14 * scale * (count + 10)
    np.testing.assert_allclose(result.plan, P, rtol=10 * slack / reg, atol=1e-300)
    np.testing.assert_allclose(result.f[:, None] + result.g, f[:, None] + g, atol=10 * slack)
    if min(rho) < INF:  # there is no constant to choose
        np.testing.assert_allclose(result.f, f, atol=10 * slack)
    assert result.n_iter == count
    assert result.status is otkit.Status.COMPLETED
    assert np.isnan(result.tol)
    assert not result.converged


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("last", ["rows", "cols"])
@pytest.mark.parametrize("seed", range(4))
def test_a_balanced_run_is_the_textbook_loop(count, last, seed):
    case = random_case(seed, 23, 17)
    reg = 0.05 * case.span
    result = solve(case.C, case.a, case.b, reg=reg, method=Sinkhorn(n_iters=count, last=last))
    check(result, case.C, case.a, case.b, reg, count, last)
    exact = (result.plan.sum(1), case.a) if last == "rows" else (result.plan.sum(0), case.b)
    np.testing.assert_allclose(*exact, rtol=1e-11)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("rho", [(0.3, 2.0), (INF, 1.0), (1.0, INF), (0.0, INF), (0.7, 0.0)], ids=str)
@pytest.mark.parametrize("last", ["rows", "cols"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_unbalanced_run_is_the_textbook_loop_without_translations(rho, last, count):
    case = random_case(6, 23, 17)
    a, reg, rho = 3 * case.a, 0.1 * case.span, tuple(r * case.span for r in rho)
    result = solve(case.C, a, case.b, reg=reg, unbalanced=rho, method=Sinkhorn(n_iters=count, last=last))
    check(result, case.C, a, case.b, reg, count, last, rho)


@pytest.mark.parametrize("last", ["rows", "cols"])
def test_zero_weights_and_forbidden_arcs(last, rng):
    C, a, b = rng.random((12, 9)), rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(9))
    a[2] = b[4] = 0
    a, b = a / a.sum(), b / b.sum()
    C[0, :4] = INF
    result = solve(C, a, b, reg=0.1, method=Sinkhorn(n_iters=5, last=last))
    np.testing.assert_allclose(result.plan, textbook(C, a, b, 0.1, 5, last)[2], rtol=1e-11)
    assert np.isfinite(result.f).all()
    assert np.isfinite(result.g).all()


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("last", ["rows", "cols"])
@pytest.mark.parametrize("sweeps", [1, 3, 1000])
def test_the_steps_that_a_run_is_cut_into_change_nothing(last, sweeps, rng):
    C = rng.random((23, 17))
    whole, cut = (solve(C, reg=0.01, method=Sinkhorn(n_iters=10, last=last, sweeps=k)) for k in (None, sweeps))
    np.testing.assert_allclose(cut.plan, whole.plan, rtol=1e-11)
    assert cut.n_iter == whole.n_iter == 10
    assert len(cut.errors) == -(-10 // sweeps)


def test_there_is_no_warning_and_strict_does_not_raise(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = solve(rng.random((8, 6)), reg=1e-3, method=Sinkhorn(n_iters=1), strict=True)
    assert result.error > 1e-3
    assert result.error == pytest.approx(abs(result.plan.sum(1) - 1 / 8).sum(), rel=1e-10)


def test_there_may_be_more_iterations_than_max_iter_allows_by_default(rng):
    result = solve(rng.random((5, 4)), reg=0.05, method=Sinkhorn(n_iters=12_345))
    assert result.n_iter == 12_345
    assert result.error < 1e-12


def test_the_run_is_reproduced_by_the_reference_and_other_libraries(any_xp, monkeypatch, rng):
    C, a = rng.random((12, 9)), rng.dirichlet(np.ones(12))
    wanted = solve(C, a, reg=0.1, method=Sinkhorn(n_iters=6, last="rows"))
    monkeypatch.setenv("OTKIT_KERNELS", "reference")
    found = solve(any_xp.asarray(C), any_xp.asarray(a), reg=0.1, method=Sinkhorn(n_iters=6, last="rows"))
    np.testing.assert_allclose(to_numpy(found.plan), wanted.plan, rtol=1e-11)


def test_items_are_run_as_if_alone(rng):
    C, reg = rng.random((4, 8, 6)), np.array([0.01, 0.1, 1.0, 10.0])
    together = solve(C, reg=reg, method=Sinkhorn(n_iters=4))
    for k in range(4):
        alone = solve(C[k], reg=reg[k], method=Sinkhorn(n_iters=4))
        np.testing.assert_allclose(together.plan[k], alone.plan, rtol=1e-12)
    assert (together.n_iter == 4).all()


def test_a_callback_can_stop_a_run(rng):
    with pytest.warns(otkit.ConvergenceWarning, match="by the callback"):
        result = solve(
            rng.random((8, 6)), reg=0.1, method=Sinkhorn(n_iters=100, sweeps=1), callback=lambda p: p.n_iter[0] == 3
        )
    assert result.status is otkit.Status.STOPPED
    assert result.n_iter == 3


C = np.arange(6.0).reshape(2, 3)
REFUSED = {
    "tol": (lambda: Sinkhorn(n_iters=3, tol=1e-3), "pass one of them"),
    "tol of the call": (lambda: solve(C, reg=1, tol=1e-3, method=Sinkhorn(n_iters=3)), "pass one of them"),
    "max_iter": (lambda: Sinkhorn(n_iters=3, max_iter=5), "max_iter= does not apply"),
    "max_iter of the call": (lambda: solve(C, reg=1, max_iter=9, method=Sinkhorn(n_iters=3)), "max_iter does not apply to method 'sinkhorn'; n_iters="),
    "last alone": (lambda: Sinkhorn(last="rows"), "last= applies to a run of n_iters="),
    "last": (lambda: Sinkhorn(n_iters=3, last="both"), "last must be 'rows' or 'cols', .* got 'both'"),
    "init": (lambda: solve(C, reg=1, method=Sinkhorn(n_iters=3), init=(np.zeros(2), np.zeros(3))), "drop init="),
    "none": (lambda: Sinkhorn(n_iters=0), "n_iters must be a positive number, got 0"),
    "a fraction": (lambda: Sinkhorn(n_iters=2.5), "n_iters must be a whole number, got 2.5"),
    "negative": (lambda: Sinkhorn(n_iters=-1), "n_iters must be a positive number, got -1"),
    "infinitely many": (lambda: Sinkhorn(n_iters=INF), "n_iters must be"),
    "no reg": (lambda: solve(C, method=Sinkhorn(n_iters=3)), "needs a reg"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
