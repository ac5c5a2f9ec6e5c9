"""What is promised about memory."""

import numpy as np
import pytest
from measure import peak_of

import otkit

pytest.importorskip("resource")


def test_clouds_are_never_multiplied_out():
    # 12,000 × 12,000 costs would be more than 1 GiB; everything here grows like n + m.
    _, after = peak_of("""
        import warnings
        import numpy as np
        import otkit
        rng = np.random.default_rng(0)
        x, y = rng.random((12_000, 3)), rng.random((12_000, 3))
        MEASURE
        warnings.simplefilter("ignore", otkit.ConvergenceWarning)
        result = otkit.solve_sample(x, y, reg=0.3, tol=1e-2, max_iter=4)
        assert np.isfinite(float(result.value))
    """)
    assert after < 2**30


def test_exact_problems_of_many_points_grow_like_n_and_m():
    # 30,000 × 30,000 costs would be 6.7 GiB. Moved points are transported by the move.
    _, after = peak_of("""
        import numpy as np
        from otkit import PointCloud, Status
        from otkit.problems import LinearProblem
        from otkit.solvers import Exact, run
        rng = np.random.default_rng(0)
        x, move = rng.random((30_000, 2)), np.array([0.4, -0.3])
        y = rng.permutation(x) + move
        MEASURE
        problem = LinearProblem.build(PointCloud(x, y))
        g = 2 * y @ move + 1e-6 * rng.random(30_000) - problem.reduced.col
        found = run(problem, Exact(), (0 * problem.a, g))
        assert found.status == [Status.CONVERGED]
        assert found.certificate.lower <= 0.25 <= found.certificate.upper
        assert found.certificate.upper - found.certificate.lower < 1e-10
    """)
    assert after < 2**29


def test_a_matrix_is_held_once_beside_one_kernel():
    n, m = 4000, 3000
    before, after = peak_of(f"""
        import warnings
        import numpy as np
        import otkit
        rng = np.random.default_rng(0)
        otkit.solve(rng.random((1000, 900)), reg=0.1, max_iter=40)  # compiles, and starts the threads
        C = rng.random(({n}, {m}))
        otkit.solve(C[:2, :2], reg=0.1)
        MEASURE
        result = otkit.solve(C, reg=0.1)
        assert np.isfinite(float(result.value))
    """)
    # The kernel takes as much as the costs; a tenth of that is room for vectors and tiles.
    assert after - before < 1.1 * 8 * n * m


@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray, np.float32], ids=lambda make: make.__name__)
@pytest.mark.parametrize("options", [dict(reg=0.05), dict(reg=0.05, unbalanced=1.0), dict(rtol=0.1)], ids=str)
def test_what_is_given_is_not_changed(make, options, rng):
    C, a, b = make(rng.random((800, 700))), rng.dirichlet(np.ones(800)), rng.dirichlet(np.ones(700))
    given = [C, a, b]
    kept = [v.copy() for v in given]
    for v in given:
        v.flags.writeable = False
    result = otkit.solve(C, a, b, **options)
    assert result.upper >= result.lower
    assert np.shares_memory(result.problem.geometry.C, C)
    for v, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(v, before)
