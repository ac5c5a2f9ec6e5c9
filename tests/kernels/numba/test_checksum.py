import numpy as np
import pytest

from otkit.kernels.numba import checksum as module
from otkit.kernels.numba.checksum import checksum


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.bool_])
def test_every_entry_counts(dtype, rng):
    x = rng.integers(0, 2, (5, 7)).astype(dtype)
    seen = {checksum(x)}
    for k in range(x.size):
        changed = x.copy()
        changed.flat[k] = 1 - changed.flat[k]
        seen.add(checksum(changed))
    assert len(seen) == x.size + 1


def test_changes_that_cancel_in_a_sum_are_seen(rng):
    x = rng.random((16, 16))
    others = [-x, x[::-1], x[:, ::-1], x.T, np.sort(x), x * 2.0, 0 * x, np.where(x == x.max(), -x, x), x + 1e-15]
    assert len({checksum(np.ascontiguousarray(v)) for v in (x, *others)}) == 1 + len(others)


@pytest.mark.parametrize("tile", [module._TILE, 100])
def test_a_view_has_the_bits_of_the_view(tile, rng, monkeypatch):
    monkeypatch.setattr(module, "_TILE", tile)
    whole = rng.random((3, 40, 50))
    view = whole[:, ::2, ::3]
    before = checksum(view)
    whole[:, 1::2] = 0.0  # not in the view
    assert checksum(view) == before
    for where in ((0, 0, 0), (1, 10, 9), (2, -2, 48)):
        whole[where] += 1.0
        assert checksum(view) != before
        before = checksum(view)
