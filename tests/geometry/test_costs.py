from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from strategies import METRICS, distances

from otkit import PointCloud
from otkit.geometry.costs import UNIT, Cost, parse_cost


def costs(x, y, metric):
    geometry = PointCloud(x, y, metric).flat(())
    return geometry, geometry.block(slice(0, 1), slice(None))[0]


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("d", [1, 3, 16, 17, 80])
def test_costs_are_their_definition_within_the_stated_rounding(metric, d, rng):
    x, y = rng.standard_normal((30, d)), rng.standard_normal((20, d))
    y[:3] = x[:3] + 1e-9 * rng.standard_normal((3, d))  # cancels
    geometry, found = costs(x, y, metric)
    wanted = distances(x, y, metric)
    relative, absolute = geometry.rounding
    assert (abs(found - wanted) <= relative * abs(wanted) + absolute + 1e-16 * (metric == "cosine")).all()
    assert relative < 1e-9
    assert absolute < 1e-12 * wanted.max()


def exact_power(x, y, ground, p):
    """d(x, y)^p of whole p in exact arithmetic, rounded to 200 bits for the root."""
    differences = [abs(Fraction(float(s)) - Fraction(float(t))) for s, t in zip(x, y, strict=True)]
    if ground == "cityblock":
        return sum(differences) ** p
    square = sum(t * t for t in differences)
    if p % 2 == 0:
        return square ** (p // 2)
    shift = 2 * max(200, square.denominator.bit_length())
    return Fraction(isqrt(square.numerator * 2**shift // square.denominator), 2 ** (shift // 2)) ** p


@pytest.mark.parametrize("ground", ["euclidean", "cityblock"])
@pytest.mark.parametrize("d", [1, 3, 16, 40])
@pytest.mark.parametrize("p", [3, 20, 36, 101, 540])
def test_high_powers_are_within_the_stated_rounding(ground, d, p, rng):
    x, y = rng.random((12, d)) / d**0.5, rng.random((12, d)) / d**0.5
    y[0] = x[0]
    y[1:3] = x[1:3] + 1e-4  # powers of these underflow
    geometry, found = costs(x, y, Cost(ground, p))
    relative, absolute = geometry.rounding
    for i in range(12):
        for j in range(12):
            wanted = exact_power(x[i], y[j], ground, p)
            error = abs(Fraction(float(found[i, j])) - wanted)
            assert error <= Fraction(relative) * wanted + Fraction(absolute)
    # The bound grows like p, not like a power of it.
    small = Cost(ground, 1.0).rounding(d, 1.0, 1.0)[0]
    assert relative <= 1.01 * 2 * p * max(small, 2.0**-36 * (d > 16)) + 8 * UNIT
    assert absolute <= (2.0**-1000 if d <= 16 or ground == "cityblock" else 1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 2, 7, 600])
@pytest.mark.parametrize("tiny", [1e-150, 1e-170, 1e-250])
def test_the_loss_by_underflow_is_covered(p, tiny):
    x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[tiny, tiny], [1.0, 1.0]])
    geometry, found = costs(x, y, Cost("euclidean", p))
    relative, absolute = geometry.rounding
    wanted = np.longdouble(2.0) ** (np.longdouble(p) / 2) * np.longdouble(tiny) ** np.longdouble(p)
    assert abs(found[0, 0] - wanted) <= relative * wanted + absolute
    assert absolute <= 2.0 ** (-499 if p < 2 else -998)


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("d", [1, 2, 40])
def test_equal_points_are_at_distance_zero(metric, d, rng):
    x = rng.standard_normal((12, d)) + 5
    _, found = costs(x, x.copy(), metric)
    assert (np.diag(found) == 0).all()
    assert (found >= 0).all()


@pytest.mark.parametrize("d", [2, 40])
def test_large_offsets_do_not_cancel(d, rng):
    x, y = rng.integers(0, 100, (15, d)) / 64.0, rng.integers(0, 100, (10, d)) / 64.0
    _, near = costs(x, y, "sqeuclidean")
    _, far = costs(x + 2.0**30, y + 2.0**30, "sqeuclidean")
    np.testing.assert_allclose(far, near, rtol=1e-12)


def test_a_callable_is_called_with_tiles_and_keeps_its_sides(rng):
    x, y = rng.standard_normal((7, 2)), rng.standard_normal((5, 2))

    def one_sided(x, y):
        assert x.ndim == y.ndim == 3
        return np.maximum(x[..., :, None, 0] - y[..., None, :, 0], 0)

    geometry, found = costs(x, y, one_sided)
    np.testing.assert_array_equal(found, np.maximum(x[:, None, 0] - y[None, :, 0], 0))
    np.testing.assert_array_equal(geometry.T.block(slice(0, 1), slice(2, 4))[0], found.T[2:4])


def test_powers_apply_to_the_ground_distance():
    assert parse_cost("cityblock", 2.0)(np.zeros((1, 1, 2)), np.ones((1, 1, 2)))[0, 0, 0] == 4
    assert parse_cost("sqeuclidean").power == 2
    assert parse_cost(("power", 3)).power == 3


@pytest.mark.parametrize("metric", ["l2", None, ("power",), 3])
def test_unknown_metrics_are_refused_with_the_known_ones(metric):
    with pytest.raises(ValueError, match="metric must be one of sqeuclidean, euclidean, cityblock, cosine"):
        parse_cost(metric)


@pytest.mark.parametrize("p", [0, -1, float("inf"), float("nan"), 2e9])
def test_powers_are_positive(p):
    with pytest.raises(ValueError, match="finite p > 0"):
        parse_cost(("power", p))


def test_products_are_mended_in_every_library(any_xp, rng):
    x, y = rng.normal(size=(2, 12, 40)), rng.normal(size=(2, 12, 40))
    y[:, :4] = x[:, :4] + 1e-6
    for one, other in ((x, y), (x, y[:1]), (x[:1], y[1:])):
        found = parse_cost("sqeuclidean")(any_xp.asarray(one), any_xp.asarray(other))
        wanted = ((one[:, :, None] - other[:, None]) ** 2).sum(-1)
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-11)
