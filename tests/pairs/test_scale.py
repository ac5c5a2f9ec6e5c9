"""Memory of a run over many measures, in a process of its own."""

import pytest
from measure import peak_of

RUN = """
    import numpy as np
    import otkit

    clouds = list(np.random.default_rng(0).random(({count}, 5, 1)))
    otkit.pairwise(clouds[:20], folder={warm!r})
    MEASURE
    found = otkit.pairwise(clouds, folder={folder!r})
    assert (found.condensed.status == 1).all() and len(found.condensed) == {count} * ({count} - 1) // 2
"""


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_grows_by_the_result(tmp_path, count, kept):
    folders = {name: str(tmp_path / name) if kept else None for name in ("warm", "folder")}
    before, after = peak_of(RUN.format(count=count, **folders))
    pairs = count * (count - 1) // 2
    assert after - before < 25 * pairs + max(40 * 2**20, 2 * pairs)
    if count == 10_000:
        assert after < 2 * 2**30
