"""Partial transport of a mass far below those of the points."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

import otkit


@pytest.mark.parametrize("share", [0.5, 1e-3, 1e-6, 1e-10, 1e-15, 1e-30])
@pytest.mark.parametrize("negative", [False, True])
def test_a_small_part_of_the_mass_is_as_precise_as_all_of_it(share, negative, rng):
    """To one column the cheapest rows send what they have."""
    for _ in range(20):
        n = int(rng.integers(1, 8))
        C, a = rng.random((n, 1)) - (2 if negative else 0), rng.integers(1, 9, n).astype(float)
        mass = share * a.sum()
        left, wanted = Fraction(mass), Fraction(0)
        for i in np.argsort(C[:, 0]):
            sent = min(left, Fraction(a[i]))
            wanted, left = wanted + sent * Fraction(C[i, 0]), left - sent
        for costs in (otkit.Dense(C), sp.csr_array(C)):  # the compiled pass, and the general way
            found = otkit.solve(costs, a, np.array([a.sum()]), mass=mass)
            assert found.converged
            assert found.lower <= wanted <= found.upper
            assert float(found.value) == pytest.approx(float(wanted), rel=1e-13)
            assert float(found.plan_sparse().mass.sum()) == pytest.approx(mass, rel=1e-13)
            assert a @ found.f + a.sum() * found.g[0] + mass * found.price == pytest.approx(float(wanted), rel=1e-12)
