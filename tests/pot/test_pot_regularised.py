"""Squared and user-defined regularisations, and L2 and TV penalties, beside SciPy's SLSQP and closed forms."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, minimize
from scipy.special import kl_div

import otkit
import otkit.pot as ot
from otkit import Status

SHAPE = n, m = 4, 3
SQUARE = (lambda P: (P**2).sum(), lambda P: 2 * P)
# A convex function that couples rows, with a curvature that changes.
QUARTIC = (lambda P: (P**4).sum() + 0.5 * (P.sum(1) ** 2).sum(), lambda P: 4 * P**3 + P.sum(1)[:, None])


def problem(seed, total=1.0):
    rng = np.random.default_rng(seed)
    return rng.random(SHAPE), rng.dirichlet(np.ones(n)), total * rng.dirichlet(np.ones(m))


def regularisation(P, kind, c):
    if isinstance(kind, tuple):
        return kind[0](P)
    return ((P - c) ** 2).sum() / 2 if kind == "L2" else kl_div(P, 1.0 if kind == "entropy" else c).sum()


def penalty(r, w, kind):
    distances = {"KL": kl_div, "L2": lambda r, w: (r - w) ** 2 / 2, "TV": lambda r, w: abs(r - w)}
    return distances[kind](r, w).sum()


def by_slsqp(M, a, b, reg, kind, rho, unbalanced_type, c):
    """The minimum by sequential quadratic programming; the total variation by slack variables."""
    size = n * m
    rows, cols = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    constraints, smooth, slack = [], [], np.zeros(0)
    for sums, w, r in ((rows, a, rho[0]), (cols, b, rho[1])):
        if r == np.inf:
            free = len(sums) - (rho == (np.inf, np.inf) and sums is cols)  # the last column follows from the others
            constraints.append((sums[:free], w[:free], w[:free], None))
        elif unbalanced_type == "TV":
            at = slice(size + slack.size, size + slack.size + w.size)
            slack = np.append(slack, r * np.ones(w.size))
            constraints += [(sums, -np.inf, w, (at, -1.0)), (sums, w, np.inf, (at, 1.0))]
        else:
            smooth.append((sums, w, r))

    def objective(x):
        P = x[:size].reshape(SHAPE)
        value = (M * P).sum() + slack @ x[size:]
        value += sum(r * penalty(sums @ x[:size], w, unbalanced_type) for sums, w, r in smooth)
        return value + (reg * regularisation(P, kind, c) if reg else 0.0)

    def linear(sums, low, high, extra):
        A = np.hstack([sums, np.zeros((sums.shape[0], slack.size))])
        if extra is not None:
            A[:, extra[0]] = extra[1] * np.eye(sums.shape[0])
        return LinearConstraint(A, low, high)

    least = 1e-14 if kind in ("KL", "entropy") or unbalanced_type == "KL" else 0.0
    start = np.concatenate([np.outer(a, b).ravel() / b.sum(), np.ones(slack.size)])
    found = minimize(
        objective, start, method="SLSQP", bounds=Bounds(least, np.inf), constraints=[linear(*c) for c in constraints],
        options={"ftol": 1e-15, "maxiter": 2000},
    )  # fmt: skip
    return found.fun, found.x[:size].reshape(SHAPE)


KINDS = [(None, None), (0.3, "L2"), (0.3, "KL"), (0.3, "entropy"), (0.3, SQUARE), (0.3, QUARTIC)]
PENALTIES = [(None, "KL"), (0.4, "KL"), (0.4, "L2"), (0.15, "TV"), ((np.inf, 0.4), "L2"), ((0.1, np.inf), "TV"), ((0.3, 0.0), "L2")]  # fmt: skip


@pytest.mark.parametrize(("reg", "kind"), KINDS, ids=lambda v: v if isinstance(v, str) else None)
@pytest.mark.parametrize(("rho", "unbalanced_type"), PENALTIES)
def test_the_minimum_is_that_of_slsqp(reg, kind, rho, unbalanced_type):
    if reg is None and rho == (0.1, np.inf):
        pytest.skip("otkit.solve takes no exact marginal beside a TV penalty")
    M, a, b = problem(0, 1.0 if rho is None or np.ndim(rho) else 1.4)
    c = np.zeros(SHAPE) if kind == "L2" and rho is None else np.outer(a, b)
    options = {
        "unbalanced": rho,
        "unbalanced_type": unbalanced_type,
        "reg": reg,
        **({"reg_type": kind} if kind else {}),
    }
    answer = ot.solve(M, a, b, **options)
    pair = (np.inf, np.inf) if rho is None else rho if np.ndim(rho) else (rho, rho)
    expected, plan = by_slsqp(M, a, b, reg, kind, pair, unbalanced_type, c)
    if reg is None and rho is None:
        expected = otkit.solve(M, a, b).value
    if kind in ("KL", "entropy") and rho is None:  # POT leaves the mass terms of balanced problems out
        expected -= reg * ((c if kind == "KL" else np.ones(SHAPE)).sum() - a.sum())
    assert float(answer.value) == pytest.approx(expected, abs=2e-7)
    assert float(answer.value_linear) == pytest.approx((M * answer.plan).sum(), abs=1e-12)
    assert answer.status == "Converged"
    assert (answer.plan >= 0).all()
    if reg:  # a strictly convex problem has one plan
        np.testing.assert_allclose(answer.plan, plan, atol=2e-3)
    for w, r, total in zip((a, b), answer.marginals, pair, strict=True):
        if total == np.inf:
            np.testing.assert_allclose(r, w, atol=1e-9)


@pytest.mark.parametrize("reg_type", ["L2", SQUARE])
@pytest.mark.parametrize("penalty", [{}, {"unbalanced": 0.4, "unbalanced_type": "L2"}, {"unbalanced": 0.4}])
def test_potentials_prove_the_interval(reg_type, penalty):
    M, a, b = problem(1)
    answer = ot.solve(M, a, b, reg=0.05, reg_type=reg_type, **penalty)
    P, (f, g) = answer.plan, answer.potentials
    c = np.outer(a, b) if penalty else 0.0
    slope = M + (0.05 * (P - c) if reg_type == "L2" else 0.1 * P)
    assert (f[:, None] + g <= slope + 1e-12).all()
    assert (P * (slope - f[:, None] - g)).sum() < 1e-7
    assert answer.result.lower - 1e-12 <= float(answer.value) <= answer.result.upper + 1e-12
    assert answer.result.gap < 1e-6 * answer.result.upper
    assert answer.result.converged


def test_closed_forms_of_one_arc():
    # A value to 1e-10 leaves the plan an error of its square root.
    a, b, cost, ra, rb = 0.7, 1.9, 0.3, 0.4, 0.8
    solve = ot.unbalanced.mm_unbalanced
    known = (ra * a + rb * b - cost) / (ra + rb)
    assert float(solve([a], [b], [[cost]], (ra, rb), div="l2")[0, 0]) == pytest.approx(known, abs=1e-4)
    assert float(solve([a], [b], [[50.0]], (ra, rb), div="l2")[0, 0]) == 0.0
    reg, c = 0.5, 0.2
    known = (ra * a + rb * b + reg * c - cost) / (ra + rb + reg)
    assert float(solve([a], [b], [[cost]], (ra, rb), [[c]], reg, "l2")[0, 0]) == pytest.approx(known, abs=1e-4)
    # TV: the mass whose regularised cost balances what both penalties save, capped by the weights.
    answer = ot.solve([[cost]], [a], [b], reg=1.0, reg_type="L2", c=[[0.0]], unbalanced=0.4, unbalanced_type="TV")
    assert float(answer.plan[0, 0]) == pytest.approx(0.8 - cost, abs=1e-4)


@pytest.mark.parametrize("kind", ["kl", "l2", "entropy"])
@pytest.mark.parametrize("regm_div", ["kl", "l2", "tv"])
def test_lbfgsb_unbalanced_is_solve(kind, regm_div):
    M, a, b = problem(2, 1.3)
    plan, log = ot.unbalanced.lbfgsb_unbalanced(a, b, M, 0.2, 0.5, reg_div=kind, regm_div=regm_div, log=True)
    answer = ot.solve(M, a, b, reg=0.2, reg_type=kind, unbalanced=0.5, unbalanced_type=regm_div)
    np.testing.assert_array_equal(plan, answer.plan)
    assert log.keys() == {"cost", "total_cost", "res"}
    for cost, name in (("linear", "cost"), ("total", "total_cost")):
        value = ot.unbalanced.lbfgsb_unbalanced2(a, b, M, 0.2, 0.5, None, kind, regm_div, returnCost=cost)
        assert (
            float(value) == float(log[name]) == float(getattr(answer, "value" if cost == "total" else "value_linear"))
        )
    for options, name in (({"reg_div": "js"}, "reg_div"), ({"regm_div": "js"}, "regm_div")):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            ot.unbalanced.lbfgsb_unbalanced(a, b, M, 1, 1, **options)


def test_zero_weights_are_points_that_are_not_there():
    M, a, b = problem(3)
    wide = np.full((n + 1, m + 2), 0.1)
    wide[:n, :m] = M
    padded = np.append(a, 0.0), np.append(b, [0.0, 0.0])
    for reg_type in ("L2", SQUARE):
        for options in ({}, {"unbalanced": 0.5, "unbalanced_type": "KL"}):
            one = ot.solve(M, a, b, reg=0.1, reg_type=reg_type, **options)
            two = ot.solve(wide, *padded, reg=0.1, reg_type=reg_type, **options)
            np.testing.assert_allclose(two.plan[:n, :m], one.plan, atol=1e-6)
            assert float(two.value) == pytest.approx(float(one.value), abs=1e-9)
            assert two.plan.sum() == pytest.approx(one.plan.sum(), abs=1e-9)
            assert all(np.isfinite(v).all() for v in two.potentials)
    # An L2 penalty lets points of weight 0 take mass that others would pay for.
    taken = ot.unbalanced.mm_unbalanced([1.0], [0.0, 0.5], [[0.0, 0.9]], 1.0, div="l2")
    assert taken[0, 0] > 0.1
    # What a reference has there stays at its cost.
    c = np.full((n + 1, m), 0.05)
    moved = ot.solve(np.vstack([M, M[:1]]), padded[0], b, reg=0.1, reg_type="L2", c=c)
    rest = ot.solve(M, a, b, reg=0.1, reg_type="L2", c=c[:n])
    assert float(moved.value) == pytest.approx(float(rest.value) + 0.1 * m * 0.05**2 / 2, abs=1e-9)
    assert moved.result.lower - 1e-12 <= float(moved.value) <= moved.result.upper + 1e-12


@pytest.mark.parametrize("options", [
    {"reg": 0.1, "reg_type": "L2"}, {"reg": 0.1, "unbalanced": 0.4, "unbalanced_type": "L2"},
    {"unbalanced": 0.4, "unbalanced_type": "L2"}, {"reg": 0.1, "unbalanced": 0.4, "unbalanced_type": "TV"},
])  # fmt: skip
def test_units_of_costs_make_no_difference(options):
    M, a, b = problem(4)
    one = ot.solve(M, a, b, **options)
    for unit in (1e-6, 1e6):
        scaled = {name: unit * v if isinstance(v, float) else v for name, v in options.items()}
        two = ot.solve(unit * M, a, b, **scaled)
        np.testing.assert_allclose(two.plan, one.plan, atol=1e-7)
        within = unit * abs(one.result.gap) + abs(two.result.gap)
        assert float(two.value) == pytest.approx(unit * float(one.value), rel=1e-12, abs=within)


def test_a_large_penalty_is_an_exact_marginal():
    M, a, b = problem(5)
    exact = otkit.solve(M, a, b)
    answer = ot.solve(M, a, b, unbalanced=1e5, unbalanced_type="L2")
    assert float(answer.value) == pytest.approx(float(exact.value), rel=1e-4)
    np.testing.assert_allclose(answer.marginals[0], a, atol=1e-4)
    limit = ot.solve(M, a, b, unbalanced=np.inf, unbalanced_type="L2", reg=0.1, reg_type="L2")
    np.testing.assert_allclose(limit.plan, ot.solve(M, a, b, reg=0.1, reg_type="L2").plan, atol=1e-9)


@pytest.mark.parametrize("options", [
    {"reg": 1e-3, "reg_type": "L2"}, {"reg": 1e-3, "unbalanced": 5.0, "unbalanced_type": "L2"},
    {"reg": 0.5, "reg_type": QUARTIC}, {"unbalanced": 5.0, "unbalanced_type": "L2"},
])  # fmt: skip
def test_an_early_stop_warns_and_its_interval_holds(options):
    M, a, b = problem(6)
    best = float(ot.solve(M, a, b, **options).value)
    for max_iter in (1, 3, 10):
        with pytest.warns(otkit.ConvergenceWarning, match=r"Stopped at max_iter.*The optimum lies in \["):
            answer = ot.solve(M, a, b, max_iter=max_iter, tol=1e-12, **options)
        assert answer.status.startswith("Stopped at max_iter")
        assert answer.result.status is Status.MAX_ITER
        assert not answer.result.converged
        assert answer.result.lower <= best * (1 + 1e-9)
        assert best <= float(answer.value) * (1 + 1e-9)
    with pytest.warns(otkit.ConvergenceWarning, match="raise numItermax"):
        ot.unbalanced.mm_unbalanced(a, b, M, 5.0, div="l2", numItermax=1)


def test_what_never_settles_is_not_said_to():
    M, a, b = problem(7)
    # The gain of a linear function, which mass without end collects.
    endless = (lambda P: -P.sum(), lambda P: -np.ones(SHAPE))
    with pytest.warns(otkit.ConvergenceWarning, match="The optimum lies in"):
        answer = ot.solve(M, a, b, reg=9.0, reg_type=endless, unbalanced=0.1, unbalanced_type="TV", max_iter=500)
    assert answer.result.lower == -np.inf


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"M": np.full(SHAPE, np.inf)}, ValueError, "M must be finite, got inf in it: .* forbids no arcs"),
    ({"M": np.full(SHAPE, np.nan)}, ValueError, "M must be finite, got nan in it"),
    ({"M": np.ones((2, *SHAPE))}, NotImplementedError, "one dense matrix of costs"),
    ({"a": np.ones((n, 2))}, ValueError, "got several histograms; pass one pair at a time"),
    ({"a": -np.ones(n)}, ValueError, "a must be non-negative"),
    ({"b": np.full(m, 0.5)}, AssertionError, "a and b must have the same total"),
    ({"reg": -1.0}, ValueError, "reg must be positive and finite"),
    ({"c": -np.ones(SHAPE)}, ValueError, "c must be a non-negative matrix of the shape"),
    ({"c": np.ones((n, 1))}, ValueError, "c must be a non-negative matrix of the shape"),
    ({"unbalanced": -1.0}, ValueError, "unbalanced must be non-negative"),
    ({"tol": 1.5}, ValueError, "tol must be a positive number and below 1"),
    ({"max_iter": 0}, ValueError, "max_iter must be a positive number"),
    ({"potentials_init": (np.ones(n), np.ones(m))}, NotImplementedError, "potentials_init= does not apply"),
    ({"plan_init": np.ones(SHAPE)}, NotImplementedError, "plan_init= does not apply"),
    ({"reg_type": (abs, SQUARE[1])}, ValueError, r"f of reg_type=\(f, df\) must return a number, got ndarray"),
    ({"reg_type": (SQUARE[0], np.sum)}, ValueError, r"df .* must return an array of shape \(4, 3\)"),
    ({"reg_type": (SQUARE[0], lambda P: P / 0)}, ValueError, r"df .* must be finite at plans without zeros"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_bad_input_is_refused(options, error, message):
    M, a, b = problem(8)
    given = {"M": M, "a": a, "b": b, "reg": 1.0, "reg_type": "L2", **options}
    with pytest.raises(error, match=message):
        ot.solve(**given)


def test_forbidden_arcs_and_references_are_refused_by_the_other_functions_too():
    M, a, b = problem(8)
    with pytest.raises(ValueError, match="M must be finite"):
        ot.unbalanced.mm_unbalanced(a, b, np.where(M > 0.5, np.inf, M), 1.0, div="l2")
    with pytest.raises(ValueError, match="c must be None for reg_type='entropy'"):
        ot.solve(M, a, b, reg=1.0, reg_type="entropy", c=M, unbalanced=1.0, unbalanced_type="L2")
    x = np.random.default_rng(0).random((5, 2))
    with pytest.raises(NotImplementedError, match="lazy=True takes reg_type='KL' or no reg, and"):
        ot.solve_sample(x, x, reg=1.0, reg_type="L2", lazy=True)
    sparse = pytest.importorskip("scipy.sparse").csr_array(M)
    with pytest.raises(NotImplementedError, match="one dense matrix of costs"):
        ot.solve(sparse, a, b, reg=1.0, reg_type="L2")


def test_samples_are_solved_at_their_distances_and_less_those_of_each_cloud():
    rng = np.random.default_rng(9)
    x, y = rng.random((5, 2)), rng.random((4, 2))
    for options in ({"reg": 0.1, "reg_type": "L2"}, {"unbalanced": 1.0, "unbalanced_type": "L2"}):
        sample, matrix = ot.solve_sample(x, y, **options), ot.solve(ot.dist(x, y), **options)
        np.testing.assert_array_equal(sample.plan, matrix.plan)
        halves = (ot.solve(ot.dist(x, x), **options).value + ot.solve(ot.dist(y, y), **options).value) / 2
        apart = ot.solve_sample(x, y, debias=True, **options)
        assert float(apart.value) == pytest.approx(float(sample.value - halves), abs=1e-12)


def test_results_have_the_fields_and_logs_of_pot():
    theirs = pytest.importorskip("ot")
    M, a, b = problem(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options, unit in (({"reg": 0.1, "reg_type": "L2"}, 1e-3), ({"reg": 0.1, "reg_type": SQUARE}, 1e-3)):
            ours, expected = ot.solve(M, a, b, **options), theirs.solve(M, a, b, **options)
            np.testing.assert_allclose(ours.plan, expected.plan, atol=unit)
            assert {"warning", "result_code"} | ours.log.keys() >= (expected.log or {}).keys()
        for kind, div in itertools.product(("KL", "L2", "entropy"), ("KL", "L2")):
            options = {"reg": 0.1, "reg_type": kind, "unbalanced": 0.8, "unbalanced_type": div}
            ours, expected = ot.solve(M, a, b, **options), theirs.solve(M, a, b, **options)
            np.testing.assert_allclose(ours.plan, expected.plan, atol=1e-4)
        plan, log = ot.unbalanced.mm_unbalanced(a, b, M, 0.5, div="l2", reg=0.1, log=True)
        expected, known = theirs.unbalanced.mm_unbalanced(a, b, M, 0.5, div="l2", reg=0.1, log=True, numItermax=50000)
        np.testing.assert_allclose(plan, expected, atol=1e-6)
        assert log.keys() == known.keys()
        assert float(log["total_cost"]) == pytest.approx(float(known["total_cost"]), abs=1e-9)
    answer = ot.solve(M, a, b, reg=0.1, reg_type="L2")
    np.testing.assert_array_equal(answer.sparse_plan.toarray(), answer.plan)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(answer)).plan, answer.plan)
    assert "lower=" in repr(answer)
    # The objective has half the squares, which POT counts whole.
    assert float(answer.value) == pytest.approx((M * answer.plan).sum() + 0.05 * (answer.plan**2).sum())


GRADED = [
    {"reg": 0.1, "reg_type": "L2"}, {"reg": 0.1, "reg_type": SQUARE},
    {"reg": 0.1, "reg_type": "L2", "unbalanced": 0.4, "unbalanced_type": "L2"},
    {"reg": 0.1, "unbalanced": 0.4, "unbalanced_type": "L2"},
    {"reg": 0.1, "reg_type": "entropy", "unbalanced": 0.2, "unbalanced_type": "TV"},
    {"reg": 0.1, "reg_type": "L2", "unbalanced": 0.4}, {"unbalanced": 0.4, "unbalanced_type": "L2"},
]  # fmt: skip


@pytest.mark.parametrize("options", GRADED)
def test_gradients_of_the_value_are_its_differences(options):
    torch = pytest.importorskip("torch")
    arrays = problem(11)
    options = {**options, "tol": 1e-9}
    tensors = [torch.tensor(v, requires_grad=True) for v in arrays]
    scalars = {name: torch.tensor(options[name], dtype=torch.float64, requires_grad=True)
               for name in ("reg", "unbalanced") if name in options}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", otkit.ConvergenceWarning)  # 1e-9 is near what rounding allows
        answer = ot.solve(*tensors, **{**options, **scalars})
        assert not answer.value_linear.requires_grad
        assert not answer.plan.requires_grad
        slopes = [v.numpy() for v in torch.autograd.grad(answer.value, [*tensors, *scalars.values()])]
        rng, step = np.random.default_rng(0), 1e-4
        for k in range(3):
            moved = rng.standard_normal(arrays[k].shape)
            if k and "unbalanced" not in options:
                moved -= moved.mean()
            moved *= step * (arrays[k] if k else 1.0).min() if k else step
            ends = [
                float(ot.solve(*(v + sign * moved if j == k else v for j, v in enumerate(arrays)), **options).value)
                for sign in (1, -1)
            ]
            assert (ends[0] - ends[1]) / 2 == pytest.approx(float((slopes[k] * moved).sum()), rel=2e-3, abs=1e-9)
        for name, slope in zip(scalars, slopes[3:], strict=True):
            ends = [float(ot.solve(*arrays, **{**options, name: options[name] + s}).value) for s in (step, -step)]
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slope), rel=1e-3, abs=1e-6)
    detached = ot.solve(*tensors, **options, grad="detach")
    assert not detached.value.requires_grad


def test_arrays_keep_their_library_and_dtype():
    torch = pytest.importorskip("torch")
    M, a, b = (torch.tensor(v, dtype=torch.float32) for v in problem(12))
    for options in (
        {"reg": 0.1, "reg_type": "L2"},
        {"reg": 0.1, "reg_type": SQUARE},
        {"unbalanced": 1.0, "unbalanced_type": "L2"},
    ):
        answer = ot.solve(M, a, b, **options)
        for v in (answer.plan, answer.value, *answer.potentials, *answer.marginals):
            assert v.dtype == torch.float32
        wide = ot.solve(*(v.double().numpy() for v in (M, a, b)), **options)
        np.testing.assert_allclose(answer.plan, wide.plan, atol=1e-6)
