import numpy as np
import pytest

import otkit


@pytest.fixture
def cloud(rng):
    x, y = rng.standard_normal((30, 3)), rng.standard_normal((20, 3))
    return x, y, rng.dirichlet(np.ones(30)), rng.dirichlet(np.ones(20))


def test_the_gauge_is_symmetric(cloud):
    x, y, a, b = cloud
    result = otkit.solve_sample(x, y, a, b, reg=0.3)
    assert result.f @ a == pytest.approx(result.g @ b)
    transposed = otkit.solve_sample(y, x, b, a, reg=0.3, tol=1e-10)
    straight = otkit.solve_sample(x, y, a, b, reg=0.3, tol=1e-10)
    np.testing.assert_allclose(transposed.f, straight.g, atol=1e-8)


def test_the_gauge_holds_on_every_component(rng):
    C = np.full((6, 5), np.inf)
    C[:3, :2], C[3:5, 2:] = rng.random((3, 2)), 5 + rng.random((2, 3))
    C[5] = 1.0  # without mass, it touches both
    a, b = np.array([0.1, 0.1, 0.2, 0.3, 0.3, 0]), np.array([0.25, 0.15, 0.2, 0.2, 0.2])
    for options in ({"reg": 0.1}, {"rtol": 1e-6}):
        result = otkit.solve(C, a, b, **options)
        f, g = result.potentials
        assert f[:3] @ a[:3] == pytest.approx(g[:2] @ b[:2])
        assert f[3:5] @ a[3:5] == pytest.approx(g[2:] @ b[2:])
        assert np.isfinite(f).all()
        value = 0.1 * (f @ a + g @ b) if "reg" not in options else f @ a + g @ b
        assert value == pytest.approx(float(result.value) * (0.1 if "reg" not in options else 1), abs=1e-5)
