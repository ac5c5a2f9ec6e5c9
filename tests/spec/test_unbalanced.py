"""Marginals that may deviate: independent answers, known limits, invariances, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from strategies import hard_cases, random_case

import otkit
from otkit.arrays import namespace, to_numpy

INF = np.inf
NO_CONVERGENCE = pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")
RHO = [(INF, 0.3), (0.3, INF), (0.05, 2.0), (2.0, 2.0), (0.5, 0.0), (INF, 0.0), (0.0, 0.0)]  # in units of the span


def data(seed, n=9, m=7):
    """A random case whose sides have masses from 0.1 to 10."""
    case, rng = random_case(seed, n, m), np.random.default_rng(seed + 1000)
    mass_a, mass_b = 10.0 ** rng.uniform(-1, 1, 2)
    return case.C, mass_a * case.a, mass_b * case.b, case.span


def divergence(p, w):
    """KL(p | w) = Σ p log(p/w) − Σp + Σw."""
    some = p > 0
    return (p[some] * np.log(p[some] / w[some])).sum() - p.sum() + w.sum()


def penalty(p, w, rho):
    return rho * divergence(p, w) if 0 < rho < INF else 0.0


def target(w, potential, rho):
    return w * np.exp(-potential / rho) if 0 < rho < INF else w


def missed(p, w, potential, rho):
    return abs(p - target(w, potential, rho)).sum() if rho > 0 else 0.0


def optimum(C, a, b, reg, rho_a, rho_b):
    """The value, potentials and plan by maximising the dual, with the best f + t, g − t taken at every point.

    Without that the objective is flat along t by reg/ρ. Variables are scaled by the root of the diagonal curvature.
    """

    def at(z):
        f, g = z[: a.size], z[a.size :]
        sent, received = (target(w, v, rho).sum() for w, v, rho in ((a, f, rho_a), (b, g, rho_b)))
        t = np.log(sent / received) / (1 / rho_a + 1 / rho_b)
        return f + t, g - t

    def lost(z):
        f, g = at(z)
        P = np.exp(np.minimum((f[:, None] + g - C) / reg, 300)) * a[:, None] * b
        value, slope = reg * (P.sum() - a.sum() * b.sum()), []
        for w, v, rho, p in ((a, f, rho_a, P.sum(1)), (b, g, rho_b, P.sum(0))):
            mass = target(w, v, rho)
            value += -(w * v).sum() if rho == INF else rho * (mass - w).sum()
            slope.append(p - mass)
        return value, np.concatenate(slope)

    curvature = np.concatenate([w * (1 / reg + 1 / rho) for w, rho in ((a, rho_a), (b, rho_b))])
    scale = 1 / np.sqrt(reg * curvature)

    def scaled(z):
        value, slope = lost(z * scale)
        return value / reg, slope * scale / reg

    options = dict(maxiter=20_000, ftol=1e-16, gtol=1e-13, maxcor=30)
    found = minimize(scaled, np.zeros(a.size + b.size), jac=True, method="L-BFGS-B", options=options)
    f, g = at(found.x * scale)
    return -found.fun * reg, f, g, np.exp((f[:, None] + g - C) / reg) * a[:, None] * b


SIDES = [1e-2, 1.0, 1e2, 1e4, INF]


@pytest.mark.parametrize(("rho_a", "rho_b"), [(p, q) for p in SIDES for q in SIDES if (p, q) != (INF, INF)])
def test_value_potentials_and_plan_are_those_of_a_general_optimiser(rho_a, rho_b):
    C, a, b, span = data(round(3 * np.log10(min(rho_a, 1e5)) + np.log10(min(rho_b, 1e5))) + 20)
    reg = 0.1 * span
    value, f, g, P = optimum(C, a, b, reg, rho_a * reg, rho_b * reg)
    result = otkit.solve(C, a, b, reg=reg, unbalanced=(rho_a * reg, rho_b * reg), tol=1e-10)
    assert result.converged
    scale = max(span, abs(f).max(), abs(g).max())
    assert result.value == pytest.approx(value, abs=1e-6 * span * P.sum())
    # Potentials of a large penalty are as large as ρ, and the optimiser knows them to their relative accuracy.
    np.testing.assert_allclose(result.f, f, atol=1e-6 * scale)
    np.testing.assert_allclose(result.g, g, atol=1e-6 * scale)
    assert abs(result.plan - P).sum() < 1e-6 * P.sum()


@pytest.mark.parametrize("method", [otkit.Sinkhorn(), otkit.Sinkhorn(factor=INF)], ids=["annealed", "at once"])
@pytest.mark.parametrize("masses", [(1.0, 1.0), (0.3, 5.0)], ids=str)
def test_stiff_penalties_take_few_iterations(method, masses, rng):
    C = rng.random((50, 40))
    a, b = masses[0] * rng.dirichlet(np.ones(50)), masses[1] * rng.dirichlet(np.ones(40))
    result = otkit.solve(C, a, b, reg=0.1, unbalanced=200.0, method=method)
    assert result.converged
    assert result.n_iter <= 100


class TestLimits:
    @pytest.mark.parametrize("reg", [0.1, 10.0])
    @pytest.mark.parametrize("method", ["auto", otkit.Sinkhorn(factor=INF)], ids=["annealed", "at once"])
    @pytest.mark.parametrize("seed", range(4))
    def test_with_a_free_side_each_row_is_a_softmax(self, seed, method, reg):
        C, a, b, span = data(seed)
        reg *= span
        weight = b * np.exp((C.min(1, keepdims=True) - C) / reg)
        row = otkit.solve(C, a, b, reg=reg, unbalanced=(INF, 0), method=method)
        np.testing.assert_allclose(row.plan, a[:, None] * weight / weight.sum(1, keepdims=True), rtol=1e-12)
        np.testing.assert_allclose(row.g, 0, atol=1e-15 * span)
        transposed = otkit.solve(C.T, b, a, reg=reg, unbalanced=(0, INF), method=method)
        np.testing.assert_allclose(transposed.plan, row.plan.T, rtol=1e-12)
        assert row.converged
        assert transposed.converged

    @pytest.mark.parametrize("reg", [0.2, 10.0])
    @pytest.mark.parametrize("method", ["auto", otkit.Sinkhorn(factor=INF)], ids=["annealed", "at once"])
    def test_with_both_sides_free_the_plan_is_the_kernel(self, method, reg):
        C, a, b, span = data(3)
        reg *= span
        result = otkit.solve(C, a, b, reg=reg, unbalanced=0, method=method)
        np.testing.assert_allclose(result.plan, a[:, None] * b * np.exp(-C / reg), rtol=1e-12)
        assert result.value_marginal == 0
        assert result.error == 0

    @pytest.mark.parametrize("rho", [(INF, 0.0), (0.0, INF), (0.0, 0.0), (1.0, 0.0)], ids=str)
    def test_a_free_side_forgets_where_it_started(self, rho, rng):
        C, a, b, span = data(3)
        options = dict(reg=0.2 * span, unbalanced=tuple(r * span for r in rho), tol=1e-10)
        cold = otkit.solve(C, a, b, **options)
        start = span * rng.standard_normal(9), span * rng.standard_normal(7)
        np.testing.assert_allclose(otkit.solve(C, a, b, **options, init=start).plan, cold.plan, rtol=1e-8)

    @pytest.mark.parametrize("rho", [INF, (INF, INF), np.full((), INF)], ids=["one", "pair", "array"])
    def test_with_infinite_penalties_the_problem_is_balanced(self, rho):
        case = random_case(5, 20, 15)
        balanced = otkit.solve(case.C, case.a, case.b, reg=0.05 * case.span)
        result = otkit.solve(case.C, case.a, case.b, reg=0.05 * case.span, unbalanced=rho)
        assert result.value_marginal is None
        for name in ("plan", "f", "g", "value", "value_dual", "lower", "upper"):
            np.testing.assert_array_equal(getattr(result, name), getattr(balanced, name))

    @pytest.mark.parametrize("seed", range(4))
    def test_large_penalties_tend_to_the_balanced_problem_as_their_inverse(self, seed):
        case = random_case(seed, 20, 15)
        reg = 0.1 * case.span
        balanced = otkit.solve(case.C, case.a, case.b, reg=reg, tol=1e-12)
        off = [
            abs(otkit.solve(case.C, case.a, case.b, reg=reg, unbalanced=rho * case.span, tol=1e-12).plan - balanced.plan).sum()
            for rho in (1e2, 1e4)
        ]  # fmt: skip
        assert off[0] < 0.1
        assert off[1] == pytest.approx(off[0] / 100, rel=0.1)

    @pytest.mark.parametrize("rho", [0.1, 1.0, (INF, 1.0), (1.0, INF)], ids=str)
    def test_at_finite_penalties_the_plan_is_not_the_balanced_one(self, rho):
        # To raise the whole scaling, its weight included, to the power ρ/(ρ + reg) converges to the balanced plan.
        case = random_case(4, 20, 15)
        rho = tuple(r * case.span for r in rho) if isinstance(rho, tuple) else rho * case.span
        result = otkit.solve(case.C, case.a, case.b, reg=0.1 * case.span, unbalanced=rho, tol=1e-10)
        balanced = otkit.solve(case.C, case.a, case.b, reg=0.1 * case.span, tol=1e-10)
        assert abs(result.plan - balanced.plan).sum() > 1e-2
        assert float(result.value) < float(balanced.value)


@pytest.mark.parametrize("rho", RHO, ids=str)
@pytest.mark.parametrize("tol", [1e-2, 1e-10])
@pytest.mark.parametrize("seed", [1, 4])
def test_results_are_what_they_say(rho, tol, seed):
    C, a, b, span = data(seed, 30, 25)
    a[3] = b[5] = 0
    reg, (rho_a, rho_b) = 0.02 * span, (r * span for r in rho)
    result = otkit.solve(C, a, b, reg=reg, unbalanced=(rho_a, rho_b), tol=tol)
    P, f, g = result.plan, result.f, result.g
    assert result.converged
    assert result.error <= tol
    size = (a.sum() + b.sum()) / 2
    # Rounding of an exponent, and so of every entry relative to itself, is a few units of its largest term.
    slack = 1e-13 * (1 + max(abs(f).max(), abs(g).max(), span) / reg)
    some = P > 0
    with np.errstate(divide="ignore"):
        log_P = (f[:, None] + g - C) / reg + np.log(a)[:, None] + np.log(b)
    np.testing.assert_allclose(P, np.exp(log_P), rtol=slack, atol=1e-300)
    for found, axis in zip(result.marginals, (1, 0), strict=True):
        np.testing.assert_allclose(found, P.sum(axis), rtol=1e-12)

    error = (missed(P.sum(1), a, f, rho_a) + missed(P.sum(0), b, g, rho_b)) / size
    assert result.error == pytest.approx(error, abs=10 * slack * P.sum() / size)
    if 0 < rho_a < INF:
        assert abs(P.sum(1) - a * np.exp(-f / rho_a)).sum() <= (error + 10 * slack) * size

    unit = span * max(P.sum(), size)
    linear, kl = (P * C).sum(), (P[some] * ((f[:, None] + g - C)[some] / reg)).sum() - P.sum() + a.sum() * b.sum()
    marginal = penalty(P.sum(1), a, rho_a) + penalty(P.sum(0), b, rho_b)
    bound = 100 * slack * unit * (1 + max([0.0, *(r for r in (rho_a, rho_b) if r < INF)]) / span)
    assert result.value_linear == pytest.approx(linear, abs=bound)
    assert result.value_reg == pytest.approx(reg * kl, abs=bound)
    assert result.value_marginal == pytest.approx(marginal, abs=bound)
    assert result.value == pytest.approx(linear + reg * kl + marginal, abs=bound)

    # The dual value is below the optimum; the values of exact sides that are not met yet belong to no feasible plan.
    best = otkit.solve(C, a, b, reg=reg, unbalanced=(rho_a, rho_b), tol=1e-12)
    assert result.value_dual <= best.value + bound
    # The dual is concave with the curvature diag(P1)/reg + …: it is off by at most the error times that of the
    # potentials, which is the relative error of the marginals times reg.
    assert best.value - result.value_dual <= 100 * result.error**2 * size * (reg + span) + bound
    assert best.value_dual == pytest.approx(float(best.value), abs=bound + 1e-9 * unit)


seeds = st.integers(0, 10_000)
pairs = st.sampled_from(RHO)


def solve(C, a, b, rho, span, scale=1.0, **options):
    rho = tuple(r * span * scale for r in rho)
    return otkit.solve(C * scale, a, b, reg=0.05 * span * scale, unbalanced=rho, tol=1e-10, **options)


class TestInvariances:
    @given(seeds, pairs, st.integers(-40, 40))
    def test_scaling_costs_reg_and_penalties_scales_the_answer(self, seed, rho, exponent):
        C, a, b, span = data(seed)
        one, other = (solve(C, a, b, rho, span, scale) for scale in (1.0, 2.0**exponent))
        np.testing.assert_array_equal(one.plan, other.plan)
        for name in ("f", "g", "value", "value_linear", "value_reg", "value_marginal", "value_dual"):
            np.testing.assert_allclose(
                getattr(one, name) * 2.0**exponent, getattr(other, name), rtol=1e-12, atol=1e-12 * span * 2.0**exponent
            )
        assert one.n_iter == other.n_iter

    @given(seeds, pairs)
    def test_swapping_the_sides_transposes_the_plan(self, seed, rho):
        C, a, b, span = data(seed)
        one, other = solve(C, a, b, rho, span), solve(C.T, b, a, rho[::-1], span)
        np.testing.assert_allclose(one.plan, other.plan.T, rtol=1e-6, atol=1e-8 * one.plan.sum())
        np.testing.assert_allclose(one.f, other.g, atol=1e-6 * span)
        np.testing.assert_allclose(one.value, other.value, atol=1e-8 * span * (a.sum() + b.sum()))

    @given(seeds, pairs)
    def test_padding_with_zero_weights_changes_nothing(self, seed, rho):
        C, a, b, span = data(seed)
        wide = np.pad(C, ((0, 3), (0, 2)), constant_values=1e3)
        wide[-1, 2], wide[-2, -1] = -50.0, INF
        one, other = solve(C, a, b, rho, span), solve(wide, np.pad(a, (0, 3)), np.pad(b, (0, 2)), rho, span)
        assert (other.plan[9:] == 0).all()
        assert (other.plan[:, 7:] == 0).all()
        # Sums of more terms round differently: the potentials differ by units of the span, the plan by that over reg.
        np.testing.assert_allclose(other.plan[:9, :7], one.plan, rtol=1e-9, atol=1e-12 * one.plan.sum())
        np.testing.assert_allclose(
            other.value, one.value, atol=1e-11 * span * (a.sum() + b.sum()) * max(1, rho[0] % INF)
        )
        for potential in other.potentials:
            assert np.isfinite(potential).all()

    @given(seeds)
    def test_splitting_a_point_splits_its_row(self, seed):
        C, a, b, span = data(seed)
        split, parts = np.vstack([C, C[:1]]), np.append(a, a[0] / 3)
        parts[0] *= 2 / 3
        one, other = solve(C, a, b, (2.0, 0.5), span), solve(split, parts, b, (2.0, 0.5), span)
        np.testing.assert_allclose(other.plan[-1], one.plan[0] / 3, atol=1e-8 * one.plan.sum())
        np.testing.assert_allclose(other.value, one.value, atol=1e-8 * span * (a.sum() + b.sum()))


def test_items_are_solved_as_if_alone_balanced_and_unbalanced_in_one_batch(rng):
    C, reg = rng.random((6, 12, 9)), np.array([0.05, 0.1, 0.02, 0.05, 0.2, 0.1])
    a, b = rng.dirichlet(np.ones(12), 6), rng.dirichlet(np.ones(9), 6)
    a[2:] *= 3.0
    rho_a, rho_b = np.array([INF, INF, 0.5, INF, 0.0, 2.0]), np.array([INF, 1.0, 0.5, 0.0, 1.0, INF])
    together = otkit.solve(C, a, b, reg=reg, unbalanced=(rho_a, rho_b), tol=1e-9)
    assert together.value_marginal[0] == 0
    for k in range(6):
        alone = otkit.solve(C[k], a[k], b[k], reg=reg[k], unbalanced=(rho_a[k], rho_b[k]), tol=1e-9)
        assert together.n_iter[k] == alone.n_iter
        assert together.status[k] is alone.status
        for name in ("value", "value_linear", "value_reg", "value_dual", "f", "g", "plan"):
            np.testing.assert_allclose(getattr(together, name)[k], getattr(alone, name), rtol=1e-12, atol=1e-12)


def test_penalties_broadcast(rng):
    C, a = rng.random((10, 8)), 2 * rng.dirichlet(np.ones(10))
    rho = np.array([[0.1], [1.0], [10.0]])
    result = otkit.solve(C, a, reg=0.1, unbalanced=(rho, np.array([0.5, INF])))
    assert result.plan.shape == (3, 2, 10, 8)
    for i, j in np.ndindex(3, 2):
        alone = otkit.solve(C, a, reg=0.1, unbalanced=(rho[i, 0], [0.5, INF][j]))
        np.testing.assert_allclose(result.plan[i, j], alone.plan, rtol=1e-12)


def test_a_warm_start_is_used(rng):
    C, a = rng.random((30, 20)), 3 * rng.dirichlet(np.ones(30))
    cold = otkit.solve(C, a, reg=0.01, unbalanced=(1.0, 20.0), tol=1e-9)
    warm = otkit.solve(C, a, reg=0.01, unbalanced=(1.0, 20.0), tol=1e-9, init=cold)
    assert warm.n_iter <= 2 < cold.n_iter


@pytest.mark.parametrize("rho", [(0.5, 0.5), (INF, 0.2), (3.0, 0.0)], ids=str)
def test_other_libraries_give_the_answer_of_numpy(xp, rho):
    C, a, b, span = data(2, 20, 15)
    options = dict(reg=0.1 * span, unbalanced=tuple(r * span for r in rho), tol=1e-10)
    wanted = otkit.solve(C, a, b, **options)
    found = otkit.solve(*(xp.asarray(v) for v in (C, a, b)), **options)
    for name in ("value", "value_linear", "value_reg", "value_marginal", "value_dual", "f", "g", "plan"):
        ours = getattr(found, name)
        assert namespace(ours) is namespace(xp.asarray(0.0))
        np.testing.assert_allclose(to_numpy(ours), getattr(wanted, name), atol=1e-8 * span * (a.sum() + b.sum()))


def test_float32_stays_float32(any_xp):
    C, a, b, span = (np.float32(v) for v in data(2, 20, 15))
    options = dict(reg=0.1 * float(span), unbalanced=float(span))
    result = otkit.solve(*(any_xp.asarray(v) for v in (C, a, b)), **options)
    assert result.tol == 1e-4
    for name in ("value", "value_marginal", "value_dual", "f", "g", "plan"):
        assert getattr(result, name).dtype == any_xp.float32
    wide = otkit.solve(*(v.astype(float) for v in (C, a, b)), **options, tol=1e-10)
    assert float(result.value_dual) == pytest.approx(float(wide.value_dual), rel=1e-6)


C = np.arange(6.0).reshape(2, 3)
REFUSED = {
    "negative": (dict(reg=1, unbalanced=-1.0), "unbalanced must be non-negative, .* got -1; inf makes"),
    "negative, one side": (dict(reg=1, unbalanced=(1.0, -2.0)), "unbalanced must be non-negative, .* got -2"),
    "nan": (dict(reg=1, unbalanced=np.nan), "unbalanced must be non-negative, .* got nan"),
    "three": (dict(reg=1, unbalanced=(1, 2, 3)), "a pair \\(rho_a, rho_b\\), got 3"),
    "no reg": (dict(unbalanced=1.0, method="sinkhorn"), "needs a reg"),
    "reg 0": (dict(reg=0, unbalanced=1.0), "reg must be positive, got 0"),
    "shape": (dict(a=np.ones((4, 2)), reg=1, unbalanced=np.ones(5)), "must broadcast"),
    "masses": (dict(a=[1.0, 1.0], b=[1.0, 1.0, 1.0], reg=1, unbalanced=(INF, INF)), "same total mass, got 2 and 3 "),
    "masses of an item": (
        dict(a=[1.0, 1.0], b=[1.0, 1.0, 1.0], reg=1, unbalanced=np.array([1.0, INF])),
        "same total mass, got 2 and 3 .*item 1",
    ),
    "no mass": (dict(a=[0.0, 0.0], reg=1, unbalanced=1.0), "positive total mass"),
    "other method": (dict(reg=1, unbalanced=1.0, method="annealing"), "drop reg= or method="),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        otkit.solve(C, **options)


@NO_CONVERGENCE
@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("rho", [1e-3, 1.0, (INF, 1.0), (1e4, 0.1), (INF, 0)], ids=str)
def test_hard_data_give_numbers(name, rho):
    case = hard_cases()[name]
    rho = tuple(r * case.span for r in rho) if isinstance(rho, tuple) else rho * case.span
    for relative in (1e3, 0.05, 1e-4):
        result = otkit.solve(case.C, 3 * case.a, case.b, reg=relative * case.span, unbalanced=rho, max_iter=500)
        for found in ("plan", "f", "g", "value", "value_linear", "value_reg", "value_marginal", "error"):
            assert np.isfinite(getattr(result, found)).all()
        assert (result.plan >= 0).all()
        assert (result.plan[np.isinf(case.C)] == 0).all()
        assert result.converged == (result.error <= result.tol)
        if relative == 0.05:
            assert result.converged


def test_costs_far_above_one_penalty_and_a_side_without(rng):
    """All mass of a column comes from the cheapest row, whose penalty counts for nothing beside."""
    C = rng.random((4, 4)) + 1e6 * rng.permutation(np.arange(1.0, 5.0))[:, None]
    found = otkit.solve(C, reg=0.003, unbalanced=(3.0, np.inf))
    assert found.converged
    np.testing.assert_allclose(found.plan.sum(0), 0.25, rtol=1e-6)
    assert float(found.value) == pytest.approx(float(C.min(0).mean()), rel=1e-4)


@NO_CONVERGENCE
@pytest.mark.parametrize("rho", RHO, ids=str)
def test_one_point_each_has_a_closed_form(rho):
    # log P·(reg + ρ_a + ρ_b) = (reg + ρ_b)·… : stationarity of c·p + reg·KL(p | ab) + ρ_a·KL(p | a) + ρ_b·KL(p | b).
    a, b, c, reg = 0.3, 5.0, 2.0, 0.7
    result = otkit.solve([[c]], [a], [b], reg=reg, unbalanced=rho, tol=1e-12)
    if INF in rho:
        wanted = a if rho[0] == INF else b
    else:
        wanted = np.exp((reg * np.log(a * b) + rho[0] * np.log(a) + rho[1] * np.log(b) - c) / (reg + sum(rho)))
    assert result.plan[0, 0] == pytest.approx(wanted, rel=1e-11)
