"""Arrays of JAX in both precisions: computed on the host, with results in JAX."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import otkit
from otkit.arrays import to_numpy

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture(params=[False, True], ids=["32 bits", "64 bits"])
def double(request):
    """Whether JAX has 64-bit numbers."""
    with jax.enable_x64(request.param):
        yield request.param


@pytest.fixture
def close(double):
    """Compare with an answer in float64, to the tolerance of the input's precision."""
    tol = 1e-12 if double else 1e-6

    def compare(found, wanted, at_most=tol):
        assert isinstance(found, jax.Array)
        assert found.dtype == (jnp.float64 if double else jnp.float32)
        assert_allclose(to_numpy(found), wanted, rtol=at_most, atol=at_most)

    return compare


def cast(v, double):
    """The numbers that JAX holds, in float64 of NumPy."""
    return np.asarray(v, dtype=np.float64 if double else np.float32).astype(float)


def test_exact_problems_end(double, close, rng):
    C, a, b = rng.random((30, 40)), rng.dirichlet(np.ones(30)), rng.dirichlet(np.ones(40))
    result = otkit.solve(*map(jnp.asarray, (C, a, b)))
    wanted = otkit.solve(*(cast(v, double) for v in (C, a, b)))
    assert result.status is otkit.Status.CONVERGED
    close(result.value, wanted.value)
    close(result.plan, wanted.plan)
    assert result.gap < 1e-12
    assert "jax" in result.kernel


@pytest.mark.parametrize("unbalanced", [None, 0.5, (np.inf, 0.3)])
def test_regularised_problems(double, close, unbalanced, rng):
    C, a = rng.random((12, 9)), rng.dirichlet(np.ones(12))
    options = dict(reg=0.1, unbalanced=unbalanced, tol=1e-10)
    result = otkit.solve(jnp.asarray(C), jnp.asarray(a), **options)
    wanted = otkit.solve(cast(C, double), cast(a, double), **options)
    for name in ("value", "f", "g", "plan"):
        close(getattr(result, name), getattr(wanted, name), 1e-9 if double else 1e-5)
    assert isinstance(result.lower, float)


def test_points_maps_and_gradients(double, close, rng):
    x, y = rng.standard_normal((9, 2)), rng.standard_normal((7, 2))
    result = otkit.solve_sample(jnp.asarray(x), jnp.asarray(y), reg=0.3, tol=1e-9)
    wanted = otkit.solve_sample(cast(x, double), cast(y, double), reg=0.3, tol=1e-9)
    close(result.transport(jnp.asarray(x)), wanted.transport(cast(x, double)), 1e-7 if double else 1e-5)
    close(result.barycentric(), wanted.barycentric(), 1e-7 if double else 1e-5)
    close(otkit.vjp(result, value=1.0).x, otkit.vjp(wanted, value=1.0).x, 1e-7 if double else 1e-5)
    again = otkit.solve_sample(jnp.asarray(x), jnp.asarray(y), reg=0.3, init=result)
    assert again.n_iter <= 2
    batch = otkit.wasserstein(jnp.asarray(np.stack([x, x + 1])), jnp.asarray(y))
    close(batch.distance, otkit.wasserstein(cast(np.stack([x, x + 1]), double), cast(y, double)).distance)


def test_a_divergence_and_pairs(double, close, rng):
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((6, 3))
    found = otkit.sinkhorn_divergence(jnp.asarray(x), jnp.asarray(y), reg=0.5, unbalanced=2.0)
    wanted = otkit.sinkhorn_divergence(cast(x, double), cast(y, double), reg=0.5, unbalanced=2.0)
    close(found.value, wanted.value, 1e-7 if double else 1e-5)
    pairs = otkit.pairwise([jnp.asarray(x), jnp.asarray(y)])
    assert_allclose(pairs.distance, otkit.pairwise([cast(x, double), cast(y, double)]).distance, rtol=1e-12)


def test_a_callable_is_called_with_its_arrays(double, close, rng):
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((6, 3))
    seen = []

    def cityblock(x, y):
        seen.extend(isinstance(v, jax.Array) for v in (x, y))
        return jnp.abs(x[:, None] - y[None]).sum(-1)

    found = otkit.solve_sample(jnp.asarray(x), jnp.asarray(y), metric=cityblock)
    wanted = otkit.solve_sample(cast(x, double), cast(y, double), metric="cityblock")
    assert found.converged
    assert all(seen)
    close(found.value, wanted.value)


def test_a_callable_keeps_its_precision_in_threads(double, rng):
    clouds, seen = [rng.standard_normal((5, 2)) for _ in range(6)], set()

    def cityblock(x, y):
        seen.update((x.dtype, y.dtype))
        return jnp.abs(x[:, None] - y[None]).sum(-1)

    found = otkit.pairwise([jnp.asarray(v) for v in clouds], p=1, metric=cityblock, workers=3)
    wanted = otkit.pairwise([cast(v, double) for v in clouds], p=1, metric="cityblock")
    assert seen == {jnp.dtype("float64" if double else "float32")}
    assert_allclose(found.distance, wanted.distance, rtol=1e-13 if double else 1e-6)


def test_other_numbers_of_jax(double, rng):
    C = rng.integers(0, 50, (9, 9))
    whole = otkit.solve(jnp.asarray(C))
    assert whole.value.dtype == (jnp.float64 if double else jnp.float32)
    assert float(whole.value) == pytest.approx(float(otkit.solve(C).value), rel=1e-7)
    brain = jnp.asarray(rng.random((9, 9)), dtype=jnp.bfloat16)
    found = otkit.solve(brain)
    assert found.plan.dtype == jnp.bfloat16
    assert found.lower == pytest.approx(float(otkit.solve(np.asarray(brain, dtype=np.float64)).value), rel=1e-12)


@pytest.mark.parametrize("transform", ["jit", "grad", "vmap"])
def test_traced_arrays_are_refused(transform):
    with pytest.raises(TypeError, match=r"one that JAX traces; call otkit outside of jax\.jit"):
        getattr(jax, transform)(lambda C: otkit.solve(C, reg=0.1).value)(jnp.ones((2, 3, 3)))
