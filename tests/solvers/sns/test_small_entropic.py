import pickle
import warnings
from functools import partial

import numpy as np
import pytest
from strategies import told

import otkit
from otkit.solvers.sns import small

FIELDS = (
    *("value", "value_linear", "value_reg", "value_dual", "lower", "upper"),
    *("f", "g", "plan", "marginals", "tol", "rescaled", "barycentric"),
)


def left():
    """Costs and weights on which the compiled pass gives up, at a reg of 1e-3."""
    w = np.exp(-3.0 * np.arange(5))
    return dict(C=np.random.default_rng(364).random((5, 5)), a=w / w.sum(), b=w[::-1] / w.sum())


def generally(monkeypatch, call):
    """The result of a call by the general way."""
    with monkeypatch.context() as patch:
        patch.setattr(small, "LARGEST", 0)
        return call()


def taken(monkeypatch, call):
    """The result of a call, and whether the compiled pass gave it."""
    seen, solved = [], small.solved
    with monkeypatch.context() as patch:
        patch.setattr(small, "solved", lambda *given: seen.append(solved(*given)) or seen[-1])
        result = call()
    return result, bool(seen) and seen[-1] is not None


def problem(seed):
    """Costs of many kinds, weights and a regularisation."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 65, 2) * (1 + (seed % 5 == 0))
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2)) + 3 * (seed % 2)
    if seed % 7 == 1:  # clusters that hardly exchange mass
        x, y = x + 20 * rng.integers(2, size=(n, 1)), y + 20 * rng.integers(2, size=(m, 1))
    C = ((x[:, None] - y) ** 2).sum(-1)
    C = {2: rng.integers(-2, 4, (n, m)), 3: rng.lognormal(0, 2, (n, m)), 4: np.full((n, m), -3)}.get(seed % 7, C) * 1.0
    a, b = (np.full(k, 1 / k) if seed % 3 == 0 else rng.dirichlet(np.full(k, 0.5)) + 1e-9 for k in (n, m))
    reg = 10.0 ** -rng.uniform(0, 4) * max(np.ptp(C), 1e-3)
    return C, a / a.sum() * 2.0 ** (seed % 4), b / b.sum() * 2.0 ** (seed % 4), reg


def test_potentials_give_a_plan_with_the_weights(monkeypatch):
    quick = 0
    for seed in range(140):
        C, a, b, reg = problem(seed)
        with told(seed):
            result, compiled = taken(monkeypatch, partial(otkit.solve, C, a, b, reg=reg, tol=1e-9))
            quick += compiled
            mass, f, g = a.sum(), result.f, result.g
            plan = np.exp((f[:, None] + g - C) / reg) * np.outer(a, b) / mass
            miss = abs(plan.sum(1) - a).sum() + abs(plan.sum(0) - b).sum()
            assert miss <= 2e-9 * mass + 1e-13 * mass * abs(C).max() / reg
            assert abs(plan - result.plan).max() <= 1e-13 * mass * (1 + abs(C).max() / reg)
            assert a @ f == pytest.approx(b @ g, abs=1e-12 * abs(C).max() * mass)
            linear, entropy = (plan * C).sum(), reg * (plan * ((f[:, None] + g - C) / reg)).sum()
            scale = mass * (abs(C).max() + reg)
            assert float(result.value_linear) == pytest.approx(linear, abs=1e-10 * scale)
            assert float(result.value) == pytest.approx(linear + entropy, abs=1e-10 * scale)
            assert float(result.value_dual) == pytest.approx(linear + entropy, abs=2e-9 * scale)  # error · max |g|
            exact = otkit.solve(C, a, b)
            assert result.lower <= exact.upper
            assert result.upper >= max(exact.lower, linear - 1e-8 * scale)
            if compiled:  # the potentials are optimal, and the upper bound is the cost of the plan
                assert result.lower >= exact.lower - 1e-12 * scale
                assert result.upper <= linear + 1e-8 * scale
            assert result.error <= result.tol
            assert sum(stage.n_iter for stage in result.stages) == result.n_iter
            assert result.stages[-1].reg == reg
    assert quick >= 135


@pytest.mark.parametrize("n", [8, 40, 100])
def test_the_number_of_newton_steps_hardly_grows_as_reg_falls(n, rng):
    x, y = rng.random((2, n, 2))
    costs = {
        "points": ((x[:, None] - y) ** 2).sum(-1),
        "uniform": rng.random((n, n)),
        "ties": rng.integers(9, size=(n, n)),
    }
    for name, C in costs.items():
        for weights in ((None, None), rng.dirichlet(np.ones(n), 2)):
            for reg in np.ptp(C) * 10.0 ** -np.arange(2, 7):
                with told((name, reg)):
                    found = otkit.solve(C * 1.0, *weights, reg=reg)
                    assert found.converged
                    assert sum(stage.newton_steps for stage in found.stages) <= 20


def test_every_field_has_the_form_of_the_general_way(monkeypatch, rng):
    C, x, y = rng.random((3, 4, 5)), rng.random((4, 2)), rng.random((3, 5, 2))
    a, b = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5), 3)
    calls = {
        "one": lambda: otkit.solve(C[0], reg=0.1),
        "batch": lambda: otkit.solve(C, a, b, reg=0.1),
        "a reg for each": lambda: otkit.solve(C[0], a, b, reg=np.array([0.1, 1.0, 0.02])),
        "batch of one": lambda: otkit.solve(C[:1], a, reg=1, method="sns"),
        "two axes": lambda: otkit.solve(C[:, None], None, b[:, None], reg=0.1),
        "axes that broadcast": lambda: otkit.solve(C[0], a[None], b[:, None], reg=np.array([0.1, 0.2])),
        "exact marginals, in other words": lambda: otkit.solve(
            C, a, b, reg=0.1, unbalanced=(np.inf, np.full(3, np.inf))
        ),
        "points without mass": lambda: otkit.solve(
            np.pad(C, ((0, 0), (0, 2), (1, 0))), np.pad(a, (0, 2)), np.pad(b, ((0, 0), (1, 0))), reg=0.1
        ),
        "forbidden arcs": lambda: otkit.solve(np.where(np.eye(4, 5) > 0, np.inf, C), a, b, reg=0.1),
        "single": lambda: otkit.solve(C.astype(np.float32), reg=np.float32(0.1)),
        "integers": lambda: otkit.solve((C * 1e6).astype(int), None, b, reg=1e5),
        "a list": lambda: otkit.solve(C[0].tolist(), a.tolist(), b[0].tolist(), reg=0.1),
        "points": lambda: otkit.solve_sample(x, y[0], a, b[0], reg=0.1),
        "batch of points": lambda: otkit.solve_sample(x, y, a, b[0], reg=0.1),
        "a line": lambda: otkit.solve_sample(x[:, :1], y[..., :1], a, b, metric="euclidean", reg=0.1),
        "divergence": lambda: otkit.sinkhorn_divergence(x, y[0], a, b[0], reg=0.1).cross,
    }
    for name, call in calls.items():
        with told(name):
            result, compiled = taken(monkeypatch, call)
            other = generally(monkeypatch, call)
            assert compiled
            assert (result.method, result.kernel) == (other.method, other.kernel)
            assert np.array_equal(result.message, other.message)
            assert repr(result).split(", value")[0].split(";")[0] == repr(other).split(", value")[0].split(";")[0]
            for copy in (result, pickle.loads(pickle.dumps(result))):
                for field in FIELDS:
                    here, there = (getattr(r, field) for r in (copy, other))
                    pairs = [(here, there)]
                    if field == "barycentric":
                        ends = rng.random((result.problem.reduced.m, 2))
                        pairs = [(copy.barycentric(ends), other.barycentric(ends))]
                    elif field == "marginals":
                        pairs = zip(here, there, strict=True)
                    elif field in ("lower", "upper"):  # by another plan, and better potentials
                        pairs, slack = [], 1e-12 * np.max(abs(other.upper))
                        assert np.all(copy.lower >= other.lower - slack)
                        assert np.all(copy.upper >= other.lower - slack)
                    for one, two in pairs:
                        assert type(one) is type(two), field
                        assert np.shape(one) == np.shape(two), field
                        assert getattr(one, "dtype", None) == getattr(two, "dtype", None), field
                        atol = 100 * np.max(other.tol) * np.max(abs(two))
                        assert np.allclose(one, two, rtol=0, atol=atol), field
            assert np.shape(result.n_iter) == np.shape(other.n_iter)
            assert result.errors.shape[1:] == other.errors.shape[1:]


def test_gradients_reach_tensors(monkeypatch, rng):
    torch = pytest.importorskip("torch")
    C, a, b = (torch.tensor(v) for v in (rng.random((6, 5)), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))))
    given = C, a, b, torch.tensor(0.1, dtype=torch.float64)
    found = []
    for how in (lambda call: taken(monkeypatch, call)[0], lambda call: generally(monkeypatch, call)):
        leaves = [v.clone().requires_grad_() for v in given]
        result = how(lambda leaves=leaves: otkit.solve(*leaves[:3], reg=leaves[3], tol=1e-11))
        (result.value + (result.plan**2).sum()).backward()
        found.append([leaf.grad for leaf in leaves])
    assert all(torch.allclose(one, other, atol=1e-9) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        dict(C=np.where(np.eye(3, k=-1) + np.eye(3, k=-2) > 0, np.inf, 1.0), a=None, b=None),  # potentials diverge
        dict(C=np.ones((3, 6000)), b=None),
        dict(reg=1e-14),
        dict(**left(), reg=1e-3),
        dict(unbalanced=1.0),
        dict(max_iter=50),
        dict(init=(np.zeros(3), np.zeros(3))),
        dict(callback=lambda progress: None),
        dict(method=otkit.SparseNewton()),
        dict(method="sinkhorn"),
    ],
)
def test_other_problems_go_the_general_way(change, monkeypatch, rng):
    given = dict(C=rng.random((3, 3)), a=rng.dirichlet(np.ones(3)), b=rng.dirichlet(np.ones(3)), reg=0.1) | change
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", otkit.ConvergenceWarning)  # of tolerances below rounding
        result, compiled = taken(monkeypatch, lambda: otkit.solve(**given))
    assert not compiled
    assert result.plan.sum() > 0.9


@pytest.mark.parametrize("change", [dict(reg=0), dict(reg=-1.0), dict(reg=np.nan), dict(tol=0), dict(a=[1.0, -1.0])])
def test_bad_input_is_refused_in_words(change):
    with pytest.raises(ValueError, match=r"positive|non-negative"):
        otkit.solve(**(dict(C=np.eye(2), reg=0.1) | change))


def test_items_do_not_depend_on_others_or_threads(monkeypatch, rng):
    C = rng.random((300, 12, 9))
    a, b = rng.dirichlet(np.ones(12), 300), rng.dirichlet(np.ones(9), 300)
    alone = [otkit.solve(C[k], a[k], b[k], reg=0.01) for k in range(0, 300, 50)]
    monkeypatch.setattr("otkit.kernels.threads._WORTH", 1)
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", threads)
        result = otkit.solve(C, a, b, reg=0.01)
        for k, one in enumerate(alone):
            assert all(
                (getattr(result, name)[50 * k] == getattr(one, name)).all() for name in ("value", "f", "g", "plan")
            )


def same(one, other, k=()):
    """Whether the item k of a batch has the numbers of another result, bitwise but for sums over the plan."""
    names = ("f", "g", "plan", "error", "n_iter", "status", "lower", "upper")
    return all(np.array_equal(getattr(one, name)[k], getattr(other, name)) for name in names)


def test_items_that_the_pass_leaves_are_solved_as_if_alone(monkeypatch):
    monkeypatch.setattr("otkit.kernels.numba.sweep._OFTEN", 0)  # one form of the loop from the first call on
    n, rng = 5, np.random.default_rng(1)
    C = rng.random((4, n, n))
    a, b = rng.dirichlet(np.ones(n), (2, 4))
    (C[1], a[1], b[1]), reg = left().values(), np.array([0.1, 1e-3, 0.1, 0.1])
    rho = np.array([np.inf, np.inf, np.inf, 2.0])
    C[3, 0], a[2, 0] = np.inf, 0.0
    a[2] /= a[2].sum()
    together, compiled = taken(monkeypatch, lambda: otkit.solve(C, a, b, reg=reg, unbalanced=rho))
    assert compiled
    assert together.errors.shape[1] == 4
    for k, wanted in enumerate([True, False, True, False]):
        alone, compiled = taken(monkeypatch, lambda k=k: otkit.solve(C[k], a[k], b[k], reg=reg[k], unbalanced=rho[k]))
        assert compiled == wanted
        assert same(together, alone, k)
        assert together.value[k] == pytest.approx(alone.value, rel=1e-14)
        assert together.value_marginal[k] == (alone.value_marginal or 0.0)
        assert sum(stage.n_iter for stage in together.stages if stage.item == k) == alone.n_iter
        assert together.problem.take(np.array([k])).items == 1


def test_bad_items_of_a_batch_are_named():
    C, a = np.ones((3, 2, 2)), np.full((3, 2), 0.5)
    with pytest.raises(ValueError, match="costs must be numbers"):
        otkit.solve(np.where(np.arange(12).reshape(3, 2, 2) == 5, np.nan, C), a, reg=0.1)
    with pytest.raises(ValueError, match="row 0"):
        otkit.solve(np.where(np.arange(12).reshape(3, 2, 2) // 2 == 4, np.inf, C), a, reg=0.1)


def test_points_without_mass_change_nothing(rng):
    C, a, b, reg = rng.random((9, 7)), rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(7)), 0.02
    bare = otkit.solve(C, a, b, reg=reg)
    C, a, b = rng.random((14, 12)) * 5, np.pad(a, (2, 3)), np.pad(b, (1, 4))
    C[2:-3, 1:-4] = bare.problem.asked.C
    C[0], C[:, 0], C[-1, 3] = np.inf, np.inf, -5.0
    padded = otkit.solve(C, a, b, reg=reg)
    assert np.array_equal(padded.plan[2:-3, 1:-4], bare.plan)
    assert padded.plan.sum() == pytest.approx(1.0, abs=1e-14)
    assert np.isfinite(padded.f).all()
    assert np.isfinite(padded.g).all()
    # Potentials of points without mass are those that an iteration gives them.
    some, other = a > 0, b > 0
    f = -reg * np.log(np.exp((padded.g[other] - C[1:, other]) / reg) @ b[other])
    g = -reg * np.log(a[some] @ np.exp((padded.f[some, None] - C[some, 1:]) / reg))
    np.testing.assert_allclose(padded.f[1:], f, atol=1e-7)
    np.testing.assert_allclose(padded.g[1:], g, atol=1e-7)
