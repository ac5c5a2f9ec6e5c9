"""Rounding between many points, without a scan of all entries: here few points, with a limit that is lowered."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import otkit
from otkit import PointCloud
from otkit.certificates import rounding
from otkit.certificates.certify import certify
from otkit.kernels import searches
from otkit.problems import LinearProblem


def clusters(rng, n):
    """Points in clusters that are far apart, with weights, some 0."""
    w = rng.random(n) * (rng.random(n) < 0.9)
    return rng.normal(size=(n, 2)) * 0.01 + rng.integers(0, 5, size=(n, 2)), w / w.sum()


@pytest.mark.parametrize("share", [1e-1, 1e-2, 1e-4])
def test_the_tree_that_is_searched_rounds_as_that_of_a_scan(share, monkeypatch):
    rng = np.random.default_rng(0)
    (x, a), (y, b) = clusters(rng, 250), clusters(rng, 300)
    wanted = otkit.solve_sample(x, y, a, b)

    def bounds():
        part = LinearProblem.build(PointCloud(x, y), a, b)
        reg = share * part.span
        found = otkit.solve_sample(x, y, a, b, reg=float(reg[0]), tol=1e-3)
        f, g = np.asarray(found.f) - part.reduced.row, np.asarray(found.g) - part.reduced.col
        return certify(part, f, g, reg)

    of_all = bounds()
    monkeypatch.setattr(searches, "MANY", 100)
    scanned = []
    monkeypatch.setattr(rounding, "maximum_spanning_tree", lambda *_: scanned.append(1))
    found = bounds()
    assert not scanned
    assert_allclose(found.lower, of_all.lower, rtol=1e-9)
    assert_allclose(found.upper, of_all.upper, rtol=1e-9)
    assert found.lower <= wanted.upper
    assert found.upper >= wanted.lower
    for side, w in ((-1, a), (-2, b)):
        assert_allclose(sum(part.dense() for part in found.plan)[0].sum(side), w, atol=1e-12)
