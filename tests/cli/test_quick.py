"""``--gaussian`` and ``--sliced``."""

import numpy as np
import pytest
from commands import refused

import otkit


def test_the_gaussians_of_two_files(otkit_, answer, files):
    x, y = (np.load(files / name) for name in ("a.npy", "b.npy"))
    moments = [f(v) for f in (lambda v: v.mean(0), lambda v: np.cov(v.T, bias=True)) for v in (x, y)]
    expected = otkit.gaussian_wasserstein(*moments)
    found = answer("w2", "a.npy", "b.npy", "--gaussian")
    np.testing.assert_allclose(found["distance"], expected, rtol=1e-12)
    status, out, err = otkit_("w2", "a.npy", "b.npy", "--gaussian")
    assert (status, err) == (0, "")
    assert f"= {expected:.6g}" in out
    assert "lower bound of W2" in out


def test_weights_are_those_of_the_measure(answer, tmp_path, rng):
    x, a = rng.random((6, 2)), rng.integers(1, 5, 6)
    np.savetxt(tmp_path / "weighted.csv", np.column_stack([x, a]), delimiter=",")
    np.savetxt(tmp_path / "repeated.csv", np.column_stack([np.repeat(x, a, axis=0), np.ones(a.sum())]), delimiter=",")
    for option in (["--gaussian"], ["--sliced", "30"]):
        assert answer("w2", "weighted.csv", "repeated.csv", "--weights", "2", *option)["distance"] < 1e-8


@pytest.mark.parametrize("order", [["w1"], ["w2"], ["wp", "-p", "3"]])
def test_slices_of_two_files(order, answer, otkit_, files):
    x, y = (np.load(files / name) for name in ("a.npy", "b.npy"))
    p = float(order[-1][-1])
    expected = otkit.sliced_wasserstein(x, y, p=p, projections=30, rng=0)
    found = answer(*order, "a.npy", "b.npy", "--sliced", "30")
    np.testing.assert_allclose([found["distance"], found["error"]], [expected.distance, expected.error], rtol=1e-12)
    assert found["projections"] == 30
    assert answer(*order, "a.npy", "b.npy", "--sliced", "1")["error"] is None
    assert " ± " in otkit_(*order, "a.npy", "b.npy", "--sliced", "30")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["w2", "a.npy", "b.npy", "--gaussian", "--sliced", "9"], "pass one of them"),
        (["w1", "a.npy", "b.npy", "--gaussian"], "run otkit w2"),
        (["w2", "a.npy", "b.npy", "--gaussian", "--rtol", "0.1"], "--rtol does not apply to --gaussian"),
        (["w2", "a.npy", "b.npy", "--sliced", "9", "--reg", "0.1"], "--reg does not apply to --sliced"),
        (["w2", "a.npy", "b.npy", "--sliced", "9", "--plan", "p.npz"], "--plan does not apply"),
        (["w2", "a.npy", "b.npy", "c.npy", "--sliced", "9"], "--sliced is for two files, got 3"),
        (["wp", "-p", "inf", "a.npy", "b.npy", "--sliced", "9"], "finite order"),
        (["w2", "a.npy", "b.npy", "--sliced", "0"], "--sliced"),
        (["w2", "a.npy", "solid.npy", "--gaussian"], "dimension, 2 and 3"),
    ],
)
def test_refusals(otkit_, files, arguments, words):
    refused(otkit_(*arguments), words)
