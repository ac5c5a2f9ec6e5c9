"""Large grids with mass in few cells: the exact answer of the cells as points, given back on the grid."""

import numpy as np
import pytest
from checks import torch
from numpy.testing import assert_allclose

import otkit
from otkit import Grid, Status

SHAPE = (200, 180)


def normalised(*images):
    return tuple(w / w.sum() for w in images)


def pixels(rng, count, shape=SHAPE, decades=0.0):
    """Masses at random places."""
    w = np.zeros(shape)
    w.flat[rng.choice(w.size, count, replace=False)] = 10.0 ** rng.uniform(-decades, 0.0, count)
    return w


def circle(row, column, radius):
    i, j = np.indices(SHAPE)
    return (abs(np.hypot(i - row, j - column) - radius) < 0.7).astype(float)


def block(row, column, side):
    w = np.zeros(SHAPE)
    w[row : row + side, column : column + side] = 1.0
    return w


def cases():
    rng = np.random.default_rng(0)
    yield "points", pixels(rng, 3), pixels(rng, 5)
    yield "pixels", pixels(rng, 50), pixels(rng, 800)
    yield "magnitudes", pixels(rng, 300, decades=12), pixels(rng, 300, decades=12)
    yield "circles", circle(60, 60, 50), circle(130, 100, 20)
    yield "lines", np.eye(*SHAPE), np.eye(*SHAPE)[::-1]
    yield "row to column", block(20, 30, 1) + np.eye(1, 200, 90).T, np.eye(1, 180, 7) + np.zeros((200, 1))
    yield "block to circle", block(50, 40, 40), circle(100, 90, 70)
    yield "one cell", block(0, 0, 1), pixels(rng, 700)
    yield "three axes", pixels(rng, 60, (30, 40, 35)), pixels(rng, 90, (30, 40, 35))


def as_points(a, b, spacing=1.0):
    """The exact answer of the cells with mass."""
    x, y = (np.argwhere(w) * np.broadcast_to(spacing, w.ndim) for w in (a, b))
    return otkit.solve_sample(x, y, a[a > 0], b[b > 0], method="exact")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("a", "b"), [pytest.param(a, b, id=name) for name, a, b in cases()])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_answer_is_that_of_the_cells_with_mass(a, b, scaled):
    a, b = normalised(a, b)
    spacing = tuple(np.array([0.3, 2.0, 1.0])[: a.ndim].tolist()) if scaled else 1.0
    wanted = as_points(a, b, spacing)
    found = otkit.solve_grid(a, b, spacing=spacing)
    assert found.status is Status.CONVERGED
    assert found.value == pytest.approx(float(wanted.value), rel=1e-9)
    assert found.lower <= wanted.upper
    assert wanted.lower <= found.upper
    assert found.upper - found.lower <= 1e-9 * found.upper
    distance = otkit.wasserstein(*[Grid(a.shape, spacing)] * 2, a, b, p=2)
    assert distance.status is Status.CONVERGED
    assert distance.distance**2 == pytest.approx(float(wanted.value), rel=1e-9)


def test_potentials_marginals_and_plan_are_of_all_cells_in_row_order(rng):
    a, b = normalised(pixels(rng, 70), pixels(rng, 90))
    found = otkit.solve_grid(a, b)
    assert_allclose(found.marginals, (a.ravel(), b.ravel()), atol=1e-15)
    arcs = found.plan_sparse()
    x, y = (np.stack(np.unravel_index(v, SHAPE), axis=-1) for v in (arcs.row, arcs.col))
    costs = ((x - y) ** 2).sum(-1)
    assert costs @ arcs.mass == pytest.approx(float(found.value), rel=1e-12)
    f, g = found.potentials
    assert a.ravel() @ f + b.ravel() @ g == pytest.approx(float(found.value), rel=1e-9)
    x, y = np.argwhere(a), np.argwhere(b)
    C = ((x[:, None] - y) ** 2).sum(-1)
    assert (f.reshape(SHAPE)[a > 0][:, None] + g.reshape(SHAPE)[b > 0] - C).max() <= 1e-9 * C.max()


def test_weights_of_a_grid_as_lists(rng):
    a, b = normalised(pixels(rng, 5), pixels(rng, 7))
    found = otkit.solve(Grid(SHAPE), a.ravel().tolist(), b.ravel().tolist())
    assert found.value == pytest.approx(float(as_points(a, b).value), rel=1e-9)
    with pytest.raises(ValueError, match="a must have"):
        otkit.solve(Grid(SHAPE), 1.0, b.ravel())


def test_equal_images_are_at_distance_zero(rng):
    a = pixels(rng, 400)
    found = otkit.solve_grid(a, a.copy())
    assert (found.value, found.lower, found.upper) == (0, 0, 0)


def test_a_batch_of_tensors_and_its_gradient(rng):
    a, b = (np.stack(normalised(*(pixels(rng, count) for count in (20, 60)))) for _ in range(2))
    weights = torch.tensor(a, requires_grad=True)
    found = otkit.solve_grid(weights, torch.tensor(b), spacing=(1.0, 1.0))
    wanted = [float(as_points(*pair).value) for pair in zip(a, b, strict=True)]
    assert_allclose(found.value.detach(), wanted, rtol=1e-9)
    found.value.sum().backward()
    assert_allclose(weights.grad.reshape(2, -1), found.f.detach(), rtol=1e-12, atol=1e-9)


def test_an_item_with_many_cells_keeps_the_grid(rng):
    few, many = pixels(rng, 20), rng.random(SHAPE)
    a, b = np.stack(normalised(few, few)), np.stack(normalised(few, many))
    assert otkit.solve_grid(a[0], b[0]).method == "multiscale"
    with pytest.warns(otkit.ConvergenceWarning):
        assert otkit.solve_grid(a, b, spacing=(1.0, 1.0), max_iter=2).method == "coarse-to-fine"
