import numpy as np
import pytest
from scipy.sparse import csr_array

from otkit.kernels import REFERENCE
from otkit.kernels.numba import NUMBA
from otkit.linalg.sparse import Scaling, Sparse


@pytest.mark.parametrize("table", [NUMBA, REFERENCE], ids=lambda table: table.name)
def test_sparsified(table, rng):
    R = rng.random((40, 30)) * (rng.random((40, 30)) < 0.3)
    R[3], R[:, 4] = 0, 0
    left, right, half_row, half_col = (rng.random(k) + 0.1 for k in (40, 30, 40, 30))
    least_row, least_col = rng.random(40), rng.random(30)
    by = Scaling(left, right, least_row, least_col, half_row, half_col)
    found, mass = table.sparsified(Sparse(csr_array(R), csr_array(R).T), by)
    P = left[:, None] * R * right
    kept = (R > 0) & (np.minimum.outer(least_row, least_col) <= P)
    assert 0 < kept.sum() < (R > 0).sum()
    wanted = np.where(kept, half_row[:, None] * P * half_col, 0.0)
    assert mass == pytest.approx(P[kept].sum())
    for half, full in ((found.T, wanted), (found.transposed, wanted.T)):
        assert half.has_sorted_indices
        np.testing.assert_allclose(half.toarray(), full, rtol=1e-14)
