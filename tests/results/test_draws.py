"""Pairs drawn from plans, against the plans as matrices."""

import numpy as np
import pytest
from checks import torch
from measure import without_matrix
from scipy.sparse import csr_array
from scipy.stats import chisquare

import otkit
from otkit.plans import CellPlan

SIZE = 20_000


@pytest.fixture
def cloud(rng):
    x, y = rng.standard_normal((12, 2)), rng.standard_normal((9, 2))
    return x, y, rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(9))


def assert_drawn_from(P, i, j):
    """A chi-squared test of the frequencies, with rare pairs in one class, and none that the plan excludes."""
    assert (P[i, j] > 0).all()
    seen, expected = np.zeros(P.shape), P / P.sum() * i.size
    np.add.at(seen, (i, j), 1)
    often = expected >= 5
    seen, expected = (np.append(v[often], v[~often].sum()) for v in (seen, expected))
    some = expected > 0
    assert chisquare(seen[some], expected[some] * seen.sum() / expected[some].sum()).pvalue > 1e-3


@pytest.mark.parametrize(
    "options",
    [{"reg": 0.3}, {"reg": 1e-3}, {}, {"rtol": 1e-2}, {"reg": 0.2, "unbalanced": (1.0, np.inf)}],
    ids=str,
)
def test_pairs_have_the_frequencies_of_the_plan(options, cloud):
    x, y, a, b = cloud
    result = otkit.solve_sample(x, y, a, b, **options)
    assert_drawn_from(result.plan, *result.sample(SIZE, 0))


def test_forbidden_arcs_and_empty_points_are_never_drawn(rng):
    C, a = rng.random((12, 9)), rng.dirichlet(np.ones(12))
    C[rng.random(C.shape) < 0.3], C[:, 0], a[3] = np.inf, 0.5, 0
    for reg in (None, 0.05):
        result = otkit.solve(C, a / a.sum(), reg=reg)
        assert_drawn_from(result.plan, *result.sample(SIZE, 1))


@pytest.mark.parametrize("reg", [None, 0.1])
def test_sparse_costs(reg, rng):
    C = rng.random((12, 12)) * (rng.random((12, 12)) < 0.3) + np.eye(12)
    result = otkit.solve(csr_array(C), reg=reg)
    assert_drawn_from(result.plan, *result.sample(SIZE, 2))


@pytest.mark.parametrize("options", [{"reg": 0.5}, {}, {"method": "coarse-to-fine", "rtol": 0.2}], ids=str)
def test_grids(options, rng):
    a, b = rng.dirichlet(np.ones(30), 2).reshape(2, 5, 6)
    result = otkit.solve_grid(a, b, **options)
    assert_drawn_from(result.plan, *result.sample(SIZE, 3))


def test_cells_of_many_points(rng):
    x, y = rng.random((500, 2)), rng.random((400, 2)) + 3
    a, b = np.where(rng.random(500) < 0.2, 0, rng.random(500)), rng.random(400)
    result = otkit.solve_sample(x, y, a / a.sum(), b / b.sum(), method=otkit.Multiscale(rtol=0.2))
    (plan,) = result.outcome.plan
    assert isinstance(plan, CellPlan)
    np.testing.assert_allclose(plan.dense_rows(0, np.array([7, 1])), result.plan[[7, 1]], atol=1e-17)
    i, j = result.sample(SIZE, 4)
    assert (result.plan[i, j] > 0).all()
    # The mean cost of pairs is the value, within four standard errors.
    cost = ((x[i] - y[j]) ** 2).sum(-1)
    assert abs(cost.mean() - result.value) < 4 * cost.std() / SIZE**0.5


def test_items_of_a_batch_are_drawn_each_from_its_plan(cloud):
    x, y, a, b = cloud
    for options in ({"reg": [[0.05], [1.0]]}, {"a": np.stack([a, a[::-1]]), "b": b}):
        result = otkit.solve_sample(x, y, **options)
        i, j = result.sample(SIZE, 5)
        assert i.shape == j.shape == (*result.plan.shape[:-2], SIZE)
        rows, cols = (v.reshape(-1, SIZE) for v in (i, j))
        for P, row, col in zip(result.plan.reshape(-1, 12, 9), rows, cols, strict=True):
            assert_drawn_from(P, row, col)


@pytest.mark.parametrize("reg", [None, 0.3])
def test_a_seed_repeats_the_pairs_and_a_generator_advances(reg, cloud):
    result, random = otkit.solve_sample(*cloud, reg=reg), np.random.default_rng(7)
    first, again, later = result.sample(50, 7), result.sample(50, random), result.sample(50, random)
    np.testing.assert_array_equal(first, again)
    assert (np.array(later) != np.array(first)).any()


def test_no_matrix_of_the_plan_is_formed(rng):
    n, m = 6000, 12_000
    x, y = rng.random((n, 2)), rng.random((m, 2)) + 1
    result = otkit.solve_sample(x, y, reg=0.5, method=otkit.Sinkhorn(n_iters=1))
    i, j = without_matrix(lambda: result.sample(256, 0), n, m, share=0.2)
    assert ((i >= 0) & (i < n) & (j >= 0) & (j < m)).all()
    near, far = x.sum(1) > np.median(x.sum(1)), y.sum(1) > np.median(y.sum(1))
    assert (near[i] == far[j]).mean() > 0.5  # what is further in x goes further in y


@pytest.mark.skipif(torch is None, reason="needs PyTorch")
@pytest.mark.parametrize("reg", [None, 0.3])
def test_indices_of_tensors_are_tensors(reg, cloud):
    x, y = (torch.tensor(v, requires_grad=True) for v in cloud[:2])
    i, j = otkit.solve_sample(x, y, reg=reg).sample(32, 0)
    assert i.dtype == j.dtype == torch.int64
    assert x[i].shape == y[j].shape == (32, 2)
    np.testing.assert_array_equal(i, otkit.solve_sample(*cloud[:2], reg=reg).sample(32, 0)[0])


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "many"])
def test_sizes_that_are_no_numbers_of_pairs(size, cloud):
    with pytest.raises(ValueError, match="size must be a positive whole number"):
        otkit.solve_sample(*cloud).sample(size)


@pytest.mark.parametrize("seed", [-1, "seed", 0.5])
def test_seeds_that_are_none(seed, cloud):
    with pytest.raises(TypeError, match="rng must be a whole number ≥ 0, the seed, or a numpy"):
        otkit.solve_sample(*cloud).sample(5, seed)


def test_a_plan_without_mass_has_no_pairs():
    result = otkit.solve([[1e6]], reg=1.0, unbalanced=1.0)
    with pytest.raises(ValueError, match="sample needs a plan with mass"):
        result.sample(5)
