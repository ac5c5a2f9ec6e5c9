import pickle
import warnings
from fractions import Fraction
from functools import partial
from itertools import combinations

import numpy as np
import ot
import pytest
from strategies import told

import otkit
from otkit.kernels.numba import items, vertices
from otkit.solvers.exact import small

FIELDS = ("value", "value_linear", "lower", "upper", "f", "g", "error", "tol", "rescaled")


def generally(monkeypatch, call):
    """The result of a call by the general way."""
    with monkeypatch.context() as patch:
        patch.setattr(small, "LARGEST", 0)
        return call()


def taken(monkeypatch, call):
    """The result of a call, and whether the compiled pass gave it."""
    seen = []

    def watched(*given):
        seen.append(solved(*given))
        return seen[-1]

    solved = small.solved
    with monkeypatch.context() as patch:
        patch.setattr(small, "solved", watched)
        result = call()
    return result, bool(seen) and seen[-1] is not None


def problem(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 30, 2)
    C = rng.normal(size=(n, m)) + 3 * (seed % 2)
    if seed % 5 == 1:
        C = rng.integers(-2, 4, (n, m)).astype(float)
    elif seed % 5 == 2:
        C = C * 10.0 ** rng.integers(-8, 9)
    elif seed % 5 == 3:
        C[rng.random((n, m)) < 0.3] = np.inf
        C[:, 0] = C[0] = 1.0
    elif seed % 5 == 4:
        C = np.full((n, m), float(seed % 3))
    a, b = (np.full(k, 1 / k) if seed % 3 == 0 else rng.dirichlet(np.full(k, 0.5)) for k in (n, m))
    if seed % 7 == 0:
        a[rng.random(n) < 0.3], b[rng.random(m) < 0.3] = 0.0, 0.0
        a[0], b[0] = 1.0, 1.0
    return C, a / a.sum() * 2.0 ** (seed % 4), b / b.sum() * 2.0 ** (seed % 4)


@pytest.mark.parametrize("part", range(4))
def test_results_are_those_of_the_general_way(part, monkeypatch):
    quick = 0
    for seed in range(60 * part, 60 * (part + 1)):
        C, a, b = problem(seed)
        with told(seed):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", otkit.ConvergenceWarning)  # of infeasible problems
                result, compiled = taken(monkeypatch, partial(otkit.solve, C, a, b))
                other = generally(monkeypatch, partial(otkit.solve, C, a, b))
            quick += compiled
            scale, mass = abs(C[np.isfinite(C)]).max() or 1.0, a.sum()
            assert result.status is other.status
            if not result.converged:
                continue
            assert abs(float(result.value) - float(other.value)) <= 1e-13 * scale * mass
            assert result.lower <= float(other.value) + 2e-15 * scale * mass
            assert result.upper >= float(other.value) - 2e-15 * scale * mass
            assert result.gap <= 1.5 * other.gap + 1e-15 * scale * mass
            rows, cols = result.marginals
            assert abs(rows - a).sum() + abs(cols - b).sum() <= 1e-14 * mass
            assert result.error <= 1e-14
            f, g = result.f, result.g
            some, plan = np.outer(a > 0, b > 0), result.plan_sparse()
            assert ((C - f[:, None] - g)[some] >= -1e-13 * scale).all()
            assert abs((C - f[:, None] - g)[plan.row, plan.col]).max() <= 1e-13 * scale
            assert plan.mass.size <= (a > 0).sum() + (b > 0).sum() - 1
            assert result.plan == pytest.approx(
                np.bincount(plan.row * b.size + plan.col, plan.mass, C.size).reshape(C.shape)
            )
            for name in ("span", "low", "high", "forbidden", "mass", "rescaled", "log_a", "log_b", "a", "b"):
                here, there = getattr(result.problem, name), getattr(other.problem, name)
                assert np.allclose(here, there, rtol=1e-14, atol=1e-15 if name == "rescaled" else 1e-16 * scale), name
            for name in ("row", "col"):
                assert (getattr(result.problem.reduced, name) == getattr(other.problem.reduced, name)).all()
    assert quick > 45


def test_every_field_has_the_form_of_the_general_way(monkeypatch, rng):
    C, x, y = rng.random((3, 4, 5)), rng.random((4, 2)), rng.random((3, 5, 2))
    a, b = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5), 3)
    calls = {
        "one": lambda: otkit.solve(C[0]),
        "batch": lambda: otkit.solve(C, a, b),
        "shared costs": lambda: otkit.solve(C[0], a, b),
        "batch of one": lambda: otkit.solve(C[:1], a),
        "two axes": lambda: otkit.solve(C[:, None], None, b[:, None]),
        "axes that broadcast": lambda: otkit.solve(C[:, None], np.stack([a, a[::-1]]), b[0]),
        "single": lambda: otkit.solve(C.astype(np.float32)),
        "integers": lambda: otkit.solve((C * 1e6).astype(int), None, b),
        "a list": lambda: otkit.solve(C[0].tolist(), a.tolist(), b[0].tolist()),
        "columns first": lambda: otkit.solve(C[0].T.copy().T, a, b[0]),
        "points": lambda: otkit.solve_sample(x, y[0], a, b[0]),
        "batch of points": lambda: otkit.solve_sample(x, y, a, b[0]),
        "weights of points": lambda: otkit.solve_sample(x, y[0], a, b, metric="cosine"),
        "distance": lambda: otkit.wasserstein(x, y, a, b, p=3, metric="cityblock").result,
    }
    for name, call in calls.items():
        with told(name):
            result, compiled = taken(monkeypatch, call)
            other = generally(monkeypatch, call)
            assert compiled
            assert (result.method, result.kernel) == (other.method, other.kernel)
            assert repr(result).split("=")[0] == repr(other).split("=")[0]
            for copy in (result, pickle.loads(pickle.dumps(result))):
                for field in ("plan", "apply", "barycentric", *FIELDS):
                    here, there = (
                        r.apply(np.ones(5)) if field == "apply" else
                        r.barycentric(y[0]) if field == "barycentric" else
                        getattr(r, field)
                        for r in (copy, other)
                    )  # fmt: skip
                    assert type(here) is type(there), field
                    assert np.shape(here) == np.shape(there), field
                    assert getattr(here, "dtype", None) == getattr(there, "dtype", None), field
                    assert np.allclose(here, there, rtol=1e-6, atol=1e-12), field
            assert np.shape(result.n_iter) == np.shape(other.n_iter)
            assert result.errors.shape == other.errors.shape
            assert result.stages == other.stages == ()


def test_gradients_reach_tensors(monkeypatch, rng):
    torch = pytest.importorskip("torch")
    C, a, b = (torch.tensor(v) for v in (rng.random((6, 5)), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))))
    found = []
    for how in (lambda call: taken(monkeypatch, call)[0], lambda call: generally(monkeypatch, call)):
        leaves = [v.clone().requires_grad_() for v in (C, a, b)]
        result = how(lambda leaves=leaves: otkit.solve(*leaves))
        result.value.backward()
        found.append([leaf.grad for leaf in leaves])
    assert all(torch.allclose(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda C, a, b: (C, -a, b),
        lambda C, a, b: (C, a * np.nan, b),
        lambda C, a, b: (C, a * np.inf, b),
        lambda C, a, b: (C, a * 0, b),
        lambda C, a, b: (C, a, 2 * b),
        lambda C, a, b: (C, a[:1], b),
        lambda C, a, b: (C * np.nan, a, b),
        lambda C, a, b: (-np.where(C > 0.9, np.inf, C), a, b),
        lambda C, a, b: (np.where(np.arange(4)[:, None] == 2, np.inf, C), a, b),
        lambda C, a, b: (np.where(np.arange(5) == 2, np.inf, C), a, b),
        lambda C, a, b: ((C - 0.5) * 3e308, a, b),
        lambda C, a, b: (C[0], a, b),
        lambda C, a, b: (C[:, :0], a, b[:0]),
        lambda C, a, b: (C, a + 0j, b),
    ],
)
def test_data_that_are_not_ordinary_get_the_words_of_the_general_way(change, monkeypatch):
    rng = np.random.default_rng(0)
    C = rng.random((4, 5))
    C[0, 0] = 1.0
    given = change(C, rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5)))
    found = []
    for call in (lambda: otkit.solve(*given), lambda: generally(monkeypatch, lambda: otkit.solve(*given))):
        try:
            found.append(call().plan.tolist())
        except (ValueError, TypeError) as error:
            found.append((type(error), str(error)))
    assert found[0] == found[1]


def test_items_do_not_depend_on_others_or_threads(monkeypatch, rng):
    C = rng.random((300, 12, 9))
    a, b = rng.dirichlet(np.ones(12), 300), rng.dirichlet(np.ones(9), 300)
    alone = [otkit.solve(C[k], a[k], b[k]) for k in range(0, 300, 50)]
    monkeypatch.setattr("otkit.kernels.threads._WORTH", 1)
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", threads)
        result = otkit.solve(C, a, b)
        for k, one in enumerate(alone):
            assert all(
                (getattr(result, name)[50 * k] == getattr(one, name)).all() for name in ("value", "f", "g", "plan")
            )


def trees(n, m):
    """The spanning trees of the complete bipartite graph, each with its arcs from the leaves up."""
    for arcs in combinations([(i, n + j) for i in range(n) for j in range(m)], n + m - 1):
        left, order = list(arcs), []
        while left:
            ends = [v for arc in left for v in arc]
            leaf = next((arc for arc in left if min(ends.count(v) for v in arc) == 1), None)
            if leaf is None:
                break
            order.append((leaf, next(v for v in leaf if ends.count(v) == 1)))
            left.remove(leaf)
        else:
            yield order


@pytest.mark.parametrize(("n", "m", "repeat"), [(2, 2, 200), (2, 3, 100), (3, 3, 40)])
def test_bounds_hold_in_rational_numbers(n, m, repeat):
    rng, every = np.random.default_rng(11), list(trees(n, m))
    for seed in range(repeat):
        C = rng.normal(size=(n, m)) * 10.0 ** rng.integers(-3, 4) + (seed % 3 == 0) * 1e3 * rng.normal()
        a, b = (np.full(n, 1 / n), np.full(m, 1 / m)) if seed % 5 == 0 else (rng.random(n), rng.random(m))
        b *= a.sum() / b.sum()
        result = otkit.solve(C, a, b)
        sides = [[Fraction(w) for w in v.tolist()] for v in (a, b)]
        mass = sum(map(sum, sides)) / 2
        supply = [w * mass / sum(side) for side in sides for w in side]
        best = None
        for order in every:
            need, total, feasible = list(supply), Fraction(0), True
            for (i, j), leaf in order:
                moved = need[leaf]
                feasible &= moved >= 0
                need[i], need[j] = need[i] - moved, need[j] - moved
                total += moved * Fraction(float(C[i, j - n]))
            if feasible and (best is None or total < best):
                best = total
        assert Fraction(float(result.lower)) <= best <= Fraction(float(result.upper))


def test_points_are_not_stored_as_a_matrix_of_the_caller(monkeypatch, rng):
    x, y = rng.normal(size=(200, 3)), rng.normal(size=(220, 3))
    result, compiled = taken(monkeypatch, lambda: otkit.solve_sample(x, y, metric="euclidean"))
    assert compiled
    assert result.problem.geometry.matrix is None
    wanted = ot.emd2([], [], ot.dist(x, y, "euclidean"))
    assert float(result.value) == pytest.approx(wanted, rel=1e-12)
    assert result.transport(x[:3]).shape == (3, 3)


def test_many_columns_for_few_rows_take_one_pass(rng):
    for n, m in ((1, 40_000), (40_000, 1), (2, 30_000), (30_000, 2)):
        C = rng.random((n, m))
        result = otkit.solve(C)
        assert result.lower <= C.mean() if 1 in (n, m) else result.upper <= C.mean()
        assert result.n_iter <= 60_000


def test_a_limit_of_pivots_is_a_flag(rng):
    C, at = rng.random((1, 20, 20)), np.array([(0, 20)])
    nothing, first = np.empty((0, 0)), np.zeros(1, dtype=np.int64)
    num, info = np.empty((1, 10)), np.empty((1, 4), dtype=np.int64)
    out = num, info, np.empty((1, 6, 20)), np.empty((1, 40, 2), dtype=np.int32), np.empty((1, 40))
    weights = np.empty(0)
    vertices.solve(
        C, nothing, nothing, np.zeros(9), weights, weights, at, at, first, first, 2.0**-53, 3, 0, 1, np.empty(400), *out
    )
    assert info[0, items.FLAG] == items.UNSOLVED


def test_uncompiled_kernels_give_the_same_bits(rng):
    x, y = rng.normal(size=(25, 2)), rng.normal(size=(21, 2))
    calls = [partial(otkit.solve, *problem(seed)) for seed in range(40) if seed % 5 != 3]
    calls += [
        partial(otkit.wasserstein, x, y, p=p, metric=metric)
        for p in (1, 2, 2.5)
        for metric in ("euclidean", "cityblock", "cosine")
    ]
    for k, call in enumerate(calls):
        with told(k):
            compiled = call()
            with small.uncompiled():
                plain = call()
            pair = [getattr(result, "result", result) for result in (compiled, plain)]
            for name in ("value", "lower", "upper", "error", "n_iter", "f", "g", "plan"):
                one, other = (getattr(result, name) for result in pair)
                assert np.array_equal(one, other), name


def test_uncompiled_kernels_do_not_compile(monkeypatch, rng):
    monkeypatch.setattr(vertices, "solve", type("Kernel", (), {"py_func": staticmethod(vertices.solve.py_func)}))
    C = rng.random((5, 6))
    with small.uncompiled():
        assert float(otkit.solve(C).value) == pytest.approx(ot.emd2([], [], C), rel=1e-14)


def test_an_optimum_of_zero_takes_the_compiled_pass(monkeypatch, rng):
    x, a = rng.normal(size=(20, 2)), rng.dirichlet(np.ones(20))
    result, compiled = taken(monkeypatch, lambda: otkit.wasserstein(x, x, a, a))
    assert compiled
    assert float(result) == 0.0
    assert result.upper < 1e-7


def test_options_are_checked_as_ever():
    for option in ("tol", "rtol", "max_iter"):
        with pytest.raises(ValueError, match=option):
            otkit.solve(np.eye(3), **{option: 0})


@pytest.mark.parametrize("batch", [(), (3,)])
def test_an_interval_that_is_wide_enough_takes_the_compiled_pass(monkeypatch, batch, rng):
    C = rng.random((*batch, 12, 9))
    exact = otkit.solve(C)
    for rtol, expected in ((0.1, True), (1e-9, True), (1e-30, False)):
        result, compiled = taken(monkeypatch, lambda rtol=rtol: otkit.solve(C, rtol=rtol))
        assert np.all(result.converged)
        np.testing.assert_allclose(result.value, exact.value, rtol=1e-13)
        assert compiled == expected
        assert result.method == "exact"
        assert np.all(np.asarray(result.tol) == rtol)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock", "cosine"])
def test_points_that_are_not_finite_are_refused_in_words(value, metric):
    for x, y in (([[value, 1.0]], [[1.0, 1.0]]), ([[2.0, 1.0]], [[1.0, value]])):
        with pytest.raises(ValueError, match="must be finite, got NaN or inf"):
            otkit.solve_sample(x, y, metric=metric)


def test_points_without_mass_do_not_make_a_problem_large(monkeypatch, rng):
    n, m = 900, 800
    C = rng.integers(10, size=(n, m)).astype(float)
    a, b = (w * (rng.random(w.size) > 0.6) for w in (rng.random(n), rng.random(m)))
    a, b = a / a.sum(), b / b.sum()
    assert n * m > small.LARGEST > np.count_nonzero(a) * np.count_nonzero(b)
    result, compiled = taken(monkeypatch, lambda: otkit.solve(C, a, b))
    assert compiled
    assert result.value == pytest.approx(ot.emd2(a, b, C), abs=1e-12)
    assert result.gap <= 1e-12
    assert (result.f[:, None] + result.g <= C + 1e-12).all()
    for bad in (C[0], C[:, :3]):
        with pytest.raises(ValueError, match=r"shape|axes"):
            otkit.solve(bad, a, b)
