"""The Sinkhorn divergence: what it must be, an independent library, and its derivative."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import otkit
from otkit import divergence
from otkit.arrays import namespace, to_numpy

METRICS = ["sqeuclidean", "euclidean", "cityblock"]  # exp(−c/reg) is a positive definite kernel of these
seeds = st.integers(0, 10_000)
penalties = st.sampled_from([None, 0.1, 10.0])  # in units of the cost


def clouds(seed, n=12, m=9, masses=(1.0, 1.0)):
    rng = np.random.default_rng(seed)
    x, y = rng.random((n, 2)), rng.random((m, 2)) * rng.uniform(0.2, 1) + rng.uniform(0, 1, 2)
    a, b = (mass * rng.dirichlet(np.full(k, rng.choice([0.5, 5.0]))) for mass, k in zip(masses, (n, m), strict=True))
    return x, y, a, b


def scale(x, y, metric):
    """The largest cost there is between any two of the points."""
    z = np.concatenate([x, y])
    return otkit.solve_sample(z, z, metric=metric, reg=1.0).problem.high[0]


@given(seeds, st.sampled_from(METRICS), penalties, st.sampled_from([0.01, 0.1, 1.0]))
def test_it_is_not_negative(seed, metric, rho, reg):
    x, y, a, b = clouds(seed, masses=(1.0, 1.0) if rho is None else (0.3, 2.0))
    found = otkit.sinkhorn_divergence(x, y, a, b, reg=reg, metric=metric, unbalanced=rho)
    assert found.converged
    assert float(found) >= -1e-12 * scale(x, y, metric)
    assert float(found) > 1e-6  # the clouds differ


@given(seeds, st.sampled_from(METRICS), penalties)
def test_it_is_zero_for_equal_measures_in_any_order(seed, metric, rho):
    x, _, a, _ = clouds(seed, masses=(1.0 if rho is None else 3.0, 1.0))
    order = np.random.default_rng(seed).permutation(len(a))
    slack = 1e-12 * scale(x, x, metric) * a.sum()
    for y, b in ((x, a), (x[order], a[order])):
        assert abs(float(otkit.sinkhorn_divergence(x, y, a, b, reg=0.1, metric=metric, unbalanced=rho))) <= slack


def test_points_may_be_split_or_have_no_weight():
    x, _, a, _ = clouds(1)
    y = np.concatenate([x, x[:1], [[5.0, 5.0]]])
    b = np.append(a, [a[0] / 4, 0.0])
    b[0] *= 3 / 4
    assert abs(float(otkit.sinkhorn_divergence(x, y, a, b, reg=0.1))) <= 1e-12 * scale(x, y, "sqeuclidean")


@given(seeds, penalties)
def test_it_is_symmetric_and_moves_with_the_points(seed, rho):
    x, y, a, b = clouds(seed, masses=(1.0, 1.0) if rho is None else (0.3, 2.0))
    options = dict(reg=0.1, unbalanced=rho)
    one = otkit.sinkhorn_divergence(x, y, a, b, **options)
    back = otkit.sinkhorn_divergence(y, x, b, a, **options)
    moved = otkit.sinkhorn_divergence(x + [3.0, -4.0], y + [3.0, -4.0], a, b, **options)
    slack = 1e-12 * scale(x, y, "sqeuclidean") * 2
    assert float(back) == pytest.approx(float(one), abs=slack)
    assert float(moved) == pytest.approx(float(one), abs=slack)


@pytest.mark.parametrize("metric", [*METRICS, "cosine", ("power", 1.5)], ids=str)
@pytest.mark.parametrize("rho", [None, 0.2, np.inf, 0.0], ids=str)
@pytest.mark.parametrize("reg", [0.1, 0.5])
def test_it_is_made_of_three_problems(metric, rho, reg):
    x, y, a, b = clouds(3, masses=(0.5, 2.0) if rho is not None and rho < np.inf else (1.0, 1.0))
    options = dict(metric=metric, reg=reg, unbalanced=rho, tol=1e-11)
    found = otkit.sinkhorn_divergence(x, y, a, b, **options)
    xy, xx, yy = (otkit.solve_sample(*p, **options) for p in ((x, y, a, b), (x, x, a, a), (y, y, b, b)))
    wanted = xy.value - xx.value / 2 - yy.value / 2
    if rho is not None and rho < np.inf:
        wanted = wanted + reg / 2 * (a.sum() - b.sum()) ** 2
    # The primal values of plans whose marginals are off by 1e-11 are off by that times the potentials.
    assert float(found) == pytest.approx(wanted, abs=1e-10 * (xy.problem.high[0] + reg) * (a.sum() + b.sum()))
    assert found.value == float(found)
    assert found.error == max(r.error for r in (found.cross, found.self_x, found.self_y))


def test_the_error_is_of_second_order():
    x, y, a, b = clouds(5, 40, 30)
    exact = float(otkit.sinkhorn_divergence(x, y, a, b, reg=0.02, tol=1e-12))
    for tol in (1e-3, 1e-5):
        loose = otkit.sinkhorn_divergence(x, y, a, b, reg=0.02, tol=tol)
        assert loose.error > 1e-2 * tol
        assert abs(float(loose) - exact) <= 10 * tol**2 + 1e-13


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reg", [0.02, 0.2])
def test_geomloss_agrees(weighted, reg):
    geomloss, torch = pytest.importorskip("geomloss"), pytest.importorskip("torch")
    x, y, a, b = clouds(4, 40, 30)
    if not weighted:
        a, b = np.full(40, 1 / 40), np.full(30, 1 / 30)
    # Its cost is ½‖x − y‖², so its reg is blur², half of ours; its last iterations leave about 1e-4.
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=(reg / 2) ** 0.5, debias=True, scaling=0.99, backend="tensorized")
    theirs = 2 * float(loss(*(torch.from_numpy(v) for v in (a, x, b, y))))
    assert float(otkit.sinkhorn_divergence(x, y, a, b, reg=reg)) == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("rho", [None, 0.5, 10.0])
def test_the_potentials_are_its_derivative_in_the_weights(rho):
    x, y, a, b = clouds(7, masses=(1.0, 1.0) if rho is None else (0.7, 1.5))
    rng = np.random.default_rng(0)
    options = dict(reg=0.1, unbalanced=rho, tol=1e-12)
    found = otkit.sinkhorn_divergence(x, y, a, b, **options)
    for side in range(2):
        w = (a, b)[side]
        change = w * rng.uniform(-1, 1, w.size)
        if rho is None:
            change -= w * change.sum()
        step = 1e-4
        ends = [
            float(otkit.sinkhorn_divergence(x, y, *((a + t * change, b) if side == 0 else (a, b + t * change)), **options))
            for t in (step, -step)
        ]  # fmt: skip
        slope = (ends[0] - ends[1]) / (2 * step)
        gradient = found.f if side == 0 else found.g
        # The error of a central difference is step², and rounding over step.
        assert gradient @ change == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("rho", [None, np.array([0.1, 1.0, np.inf])], ids=["balanced", "mixed"])
def test_items_are_solved_as_if_alone(rho, rng):
    x, y, reg = rng.random((3, 12, 2)), rng.random((9, 2)), np.array([0.05, 0.1, 0.5])
    a = rng.dirichlet(np.ones(12), 3)
    together = otkit.sinkhorn_divergence(x, y, a, reg=reg, unbalanced=rho)
    assert together.value.shape == together.error.shape == together.converged.shape == (3,)
    assert together.f.shape == (3, 12)
    assert together.g.shape == (3, 9)
    for k in range(3):
        alone = otkit.sinkhorn_divergence(x[k], y, a[k], reg=reg[k], unbalanced=None if rho is None else rho[k])
        assert together.value[k] == pytest.approx(float(alone), abs=1e-14)
        np.testing.assert_allclose(together.f[k], alone.f, atol=1e-13)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("size", [7, 70, 150], ids=["one pass", "passes", "sweeps"])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("weighted", [None, "each", "all"])
@pytest.mark.parametrize("rho", [None, 0.7])
def test_three_problems_of_one_shape_are_those_of_three_calls(size, batch, weighted, rho, rng, monkeypatch):
    torch = pytest.importorskip("torch")
    x, y = (torch.tensor(rng.random((*batch, size, 2)) + shift) for shift in (0, 0.3))
    a, b = (torch.tensor(rng.dirichlet(np.ones(size), () if weighted == "all" else batch)) for _ in range(2))
    reg = torch.full(batch, 0.05)

    def read():
        leaves = [v.clone().requires_grad_() for v in ((x, y, a, b, reg) if weighted else (x, y, reg))]
        *four, numbers = leaves if weighted else (*leaves[:2], None, None, leaves[2])
        found = otkit.sinkhorn_divergence(*four, reg=numbers, unbalanced=rho, tol=1e-11)
        together = found.cross.origin is not None
        gradients = torch.autograd.grad(found.value.sum(), leaves)
        fields = [found.value, found.f, found.g]
        for r in (found.cross, found.self_x, found.self_y):
            assert {stage.item for stage in r.stages} == set(range(max(1, int(np.prod(batch)))))
            fields += [r.value, r.value_linear, r.f, r.g, r.plan, *r.marginals]
            fields += [
                torch.tensor(np.array(v)) for v in (r.n_iter, r.errors[-1], r.lower, r.upper, r.plan_sparse().item)
            ]
        return together, (*fields, *gradients)

    together, found = read()
    monkeypatch.setattr(divergence, "_fit_together", lambda *_: False)
    apart, wanted = read()
    assert together
    assert not apart
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("wrong", ["points", "masses", "weights", "reg"])
def test_a_message_is_about_what_was_passed(wrong, rng, monkeypatch):
    x, y, a = rng.random((4, 30, 2)), rng.random((4, 30, 2)), rng.dirichlet(np.ones(30), 4)
    b, reg = a.copy(), np.full(4, 0.1)
    if wrong == "points":
        y[2, 3, 1] = np.nan
    elif wrong == "masses":
        b[2] *= 3
    elif wrong == "weights":
        b[3, 4] = -1.0
    else:
        reg[1] = 1e-20
    words = []
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must|same") as told:
            otkit.sinkhorn_divergence(x, y, a, b, reg=reg)
        words.append(str(told.value))
        monkeypatch.setattr(divergence, "_fit_together", lambda *_: False)
    assert words[0] == words[1]


def test_clouds_may_have_different_batch_axes(rng):
    x, y = rng.random((4, 1, 7, 2)), rng.random((3, 6, 2))
    found = otkit.sinkhorn_divergence(x, y, reg=0.1)
    assert found.value.shape == (4, 3)
    assert found.f.shape == (4, 3, 7)
    assert found.value[2, 1] == pytest.approx(float(otkit.sinkhorn_divergence(x[2, 0], y[1], reg=0.1)), abs=1e-14)


@pytest.mark.parametrize("m", [9, 12])  # three problems, and one batch of them
def test_other_libraries_and_float32(xp, m):
    x, y, a, b = clouds(2, m=m)
    wanted = otkit.sinkhorn_divergence(x, y, a, b, reg=0.1)
    found = otkit.sinkhorn_divergence(*(xp.asarray(v) for v in (x, y, a, b)), reg=0.1)
    assert namespace(found.value) is namespace(xp.asarray(0.0))
    assert float(found) == pytest.approx(float(wanted), abs=1e-13)
    narrow = otkit.sinkhorn_divergence(*(xp.asarray(v, dtype=xp.float32) for v in (x, y, a, b)), reg=0.1)
    assert narrow.value.dtype == narrow.f.dtype == xp.float32
    assert float(narrow) == pytest.approx(float(wanted), abs=1e-6)
    assert to_numpy(narrow.f).shape == (12,)


def test_what_did_not_converge_is_said_once():
    x, y, a, b = clouds(0, 40, 30)
    with pytest.warns(
        otkit.ConvergenceWarning, match="of the 3 problems .* did not converge: Stopped at max_iter"
    ) as seen:
        found = otkit.sinkhorn_divergence(x, y, a, b, reg=1e-3, max_iter=3)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert not found.converged
    with pytest.raises(otkit.NotConverged, match="of the 3 problems"):
        otkit.sinkhorn_divergence(x, y, a, b, reg=1e-3, max_iter=3, strict=True)


X, Y = np.zeros((2, 2)), np.ones((3, 2))
REFUSED = {
    "pair": (dict(reg=1, unbalanced=(1.0, 1.0)), ValueError, "one penalty for both sides of a divergence"),
    "reg 0": (dict(reg=0), ValueError, "reg must be positive, got 0"),
    "reg None": (dict(reg=None), (ValueError, TypeError), "reg must"),
    "no reg": ({}, TypeError, "reg"),
    "negative reg": (dict(reg=-1.0), ValueError, "reg must be positive and finite"),
    "negative rho": (dict(reg=1, unbalanced=-1.0), ValueError, "unbalanced must be non-negative"),
    "masses": (dict(a=[1.0, 1.0], b=[1.0, 1.0, 1.0], reg=1), ValueError, "same total mass, got 2 and 3 .*unbalanced="),
    "metric": (dict(reg=1, metric="manhattan"), ValueError, "metric must be one of"),
    "method": (dict(reg=1, method="annealing"), ValueError, "drop reg= or method="),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused(name):
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        otkit.sinkhorn_divergence(X, Y, **options)
