"""What every answer must fulfil, computed here from the data and not from the library."""

import numpy as np
import pytest

import otkit


class Later:
    """A library that is imported by the test that uses it, which is skipped where it is not installed."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(pytest.importorskip(self._name), attribute)


torch = Later("torch")


def solved_by(name, asked=None):
    """`otkit.solve` and `otkit.solve_sample` by the solver of this name, or by what is asked for and must be one."""

    def only(solve):
        def call(*given, **options):
            result = solve(*given, **{"method": asked or name} | options)
            assert result.method == name
            return result

        return call

    return only(otkit.solve), only(otkit.solve_sample)


def objective(C, a, b, reg, P):
    """⟨C, P⟩ + reg·KL(P | a⊗b), with KL(P | Q) = Σ P log(P/Q) − ΣP + ΣQ."""
    i, j = np.nonzero(P > 0)
    mass = P[i, j]
    kl = (mass * (np.log(mass) - np.log(a[i]) - np.log(b[j]))).sum() - mass.sum() + a.sum() * b.sum()
    return (C[i, j] * mass).sum() + reg * kl


def marginal_error(P, a, b):
    """The L1 error of both marginals, relative to the mass."""
    return (abs(P.sum(1) - a).sum() + abs(P.sum(0) - b).sum()) / (a.sum() / 2 + b.sum() / 2)


def entropy(a):
    """−Σ a log a."""
    return -(a[a > 0] * np.log(a[a > 0])).sum()


def check_entropic(result, C, a, b, reg):
    """An entropic result is what it says: its plan, error, values, potentials and bounds belong together."""
    P = np.asarray(result.plan, dtype=float)
    f, g = np.asarray(result.f, dtype=float), np.asarray(result.g, dtype=float)
    span = np.ptp(C[np.isfinite(C)]) or 1.0
    slack = 1e-11 + 1e-14 * (abs(f).max() + abs(g).max()) / reg
    with np.errstate(divide="ignore"):
        log_ab = np.log(a / a.sum())[:, None] + np.log(b / b.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        formula = np.where(np.isfinite(C) & np.isfinite(log_ab), np.exp((f[:, None] + g - C) / reg + log_ab), 0.0)
    assert np.isfinite(P).all()
    assert np.isfinite(f).all()
    assert np.isfinite(g).all()
    assert (P[(a == 0)] == 0).all()
    assert (P[:, b == 0] == 0).all()
    assert (P[np.isinf(C)] == 0).all()
    mass = a.sum()
    np.testing.assert_allclose(P.sum(), mass * formula.sum(), rtol=1e-6 + slack)
    assert abs(P / mass - formula).sum() <= 100 * slack
    rounded = np.finfo(float).eps * (abs(f).max() + abs(g).max()) / reg  # of the exponents
    np.testing.assert_allclose(result.error, marginal_error(P, a, b), atol=1e-12 + rounded)
    if result.converged:
        assert result.error <= result.tol
    some = P > 0
    linear = (C[some] * P[some]).sum()
    np.testing.assert_allclose(
        float(result.value_linear), linear, atol=1e-12 * mass * abs(C[some]).max() + 1e-13 * span
    )
    return P
