"""`otkit.sklearn.OTMap`: scikit-learn's own checks, and the map."""

import subprocess
import sys

import numpy as np
import pytest

import otkit

pytest.importorskip("sklearn")
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from otkit.sklearn import OTMap


@parametrize_with_checks([OTMap(), OTMap(reg=1.0)])
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)


def clouds(seed, n=30, m=20, d=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 3


@pytest.mark.parametrize("options", [{"reg": 0.5}, {"reg": 0.5, "unbalanced": (2.0, 1.0), "metric": "euclidean"}])
@pytest.mark.parametrize("d", [1, 2])
def test_it_is_the_map_of_the_solution_and_back_that_of_the_transposed_problem(options, d):
    x, y = clouds(0, d=d)
    ot_map = OTMap(**options).fit(x, y)
    new = np.random.default_rng(1).normal(size=(5, d))
    there = otkit.solve_sample(x, y, **options)
    np.testing.assert_allclose(ot_map.transform(new), there.transport(new), atol=1e-6)
    back = {**options, **({"unbalanced": options["unbalanced"][::-1]} if "unbalanced" in options else {})}
    np.testing.assert_allclose(
        ot_map.inverse_transform(new + 3), otkit.solve_sample(y, x, **back).transport(new + 3), atol=1e-4
    )
    assert ot_map.result_.converged


def test_a_translation_is_found_and_undone():
    x, _ = clouds(2)
    shift = np.array([5.0, -1.0])
    ot_map = OTMap().fit(x, (x + shift)[::-1])
    np.testing.assert_allclose(ot_map.transform(x), x + shift)
    np.testing.assert_allclose(ot_map.inverse_transform(x + shift), x)
    np.testing.assert_allclose(ot_map.transform(x + 1e-6), x + 1e-6 + shift)


def test_an_exact_map_has_the_mean_targets_of_the_plan():
    for d in (1, 2):
        x, y = clouds(5, d=d)
        ot_map = OTMap().fit(x, y)
        plan = ot_map.result_.plan
        np.testing.assert_allclose(ot_map.transform(x), plan @ y / plan.sum(1)[:, None])
        np.testing.assert_allclose(ot_map.inverse_transform(y), plan.T @ x / plan.sum(0)[:, None])


def test_without_a_target_points_become_normal():
    x = np.random.default_rng(3).exponential(size=(400, 2))
    for given in ((x,), (x, np.arange(400) % 2)):  # labels are no target
        z = OTMap().fit_transform(*given)
        np.testing.assert_allclose(z.mean(0), 0, atol=0.05)
        np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.1)
    assert make_pipeline(StandardScaler(), OTMap(reg=0.1)).fit_transform(x).shape == x.shape


def test_bad_input_is_refused():
    x, y = clouds(4)
    with pytest.raises(ValueError, match="Y must have the coordinates of X, 2, got 3"):
        OTMap().fit(x, np.ones((4, 3)))
    with pytest.raises(ValueError, match="Input Y contains NaN"):
        OTMap().fit(x, y * np.nan)
    with pytest.raises(ValueError, match="reg must be positive"):
        OTMap(reg=-1.0).fit(x, y)


def test_without_scikit_learn_the_extra_is_named():
    code = "import sys\nsys.modules['sklearn'] = None\nimport otkit.sklearn"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        "ImportError: otkit.sklearn needs scikit-learn 1.6 or newer; install it with: pip install 'otkit" in run.stderr
    )
