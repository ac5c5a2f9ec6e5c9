import numpy as np
import pytest

from otkit.kernels.numba.sorting import in_order

SETS = {
    "normal": lambda rng: rng.normal(size=500),
    "sorted": lambda rng: np.sort(rng.random(300)),
    "reversed": lambda rng: -np.sort(rng.random(300)),
    "ties": lambda rng: rng.integers(0, 100, 300) / 7,
    "equal": lambda rng: np.full(20, 3.0),
    "one": lambda rng: np.array([-2.0]),
    "two": lambda rng: np.array([1.0, 0.0]),
    "tiny": lambda rng: rng.random(50) * 1e-300,
}


@pytest.mark.parametrize("name", SETS)
def test_points_and_weights_are_in_the_order_of_a_stable_sort(name, rng):
    x = SETS[name](rng)
    w, order = rng.random(x.size), np.argsort(x, kind="stable")
    out_x, out_w = np.empty(x.size), np.empty(x.size)
    assert in_order(x, w, out_x, out_w) == abs(x[x != 0]).min()
    assert (out_x == x[order]).all()
    assert (out_w == w[order]).all()
    assert in_order(x, np.empty(0), out_x, out_w) == abs(x[x != 0]).min()
    assert (out_x == x[order]).all()
    assert (out_w == 1 / x.size).all()


@pytest.mark.parametrize(
    "x",
    [
        [0.0, np.nan, 1.0],
        [np.inf, 1.0],
        [-1e308, 1e308],
        [0.0, 5e-324],
        [*np.linspace(0, 1, 100), 1e9],
    ],
)
def test_other_points_are_left_to_a_sort_by_comparisons(x):
    x = np.array(x)
    assert in_order(x, np.empty(0), np.empty(x.size), np.empty(x.size)) == -1
