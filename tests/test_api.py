import warnings

import numpy as np
import pytest

import otkit


@pytest.fixture
def C(rng):
    return rng.random((20, 15))


def test_not_converged_warns_once_or_raises(C):
    with pytest.warns(otkit.ConvergenceWarning, match=r"max_iter.* Error .*, tolerance 1e-06") as caught:
        result = otkit.solve(C, reg=0.01, max_iter=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not result.converged
    with pytest.raises(otkit.NotConverged, match="max_iter") as raised:
        otkit.solve(C, reg=0.01, max_iter=2, strict=True)
    assert raised.value.result.n_iter == 2
    with pytest.warns(otkit.ConvergenceWarning, match="2 of 3 problems did not converge; item 0") as caught:
        otkit.solve(C, reg=[1e-3, 1e3, 1e-3], max_iter=5)
    assert len(caught) == 1
    with pytest.warns(otkit.ConvergenceWarning, match=r"The optimum lies in \["):
        otkit.solve(C, rtol=1e-9, max_iter=2)
    with pytest.warns(otkit.ConvergenceWarning) as caught:
        otkit.wasserstein(C[:, :2], C[:, 2:4] + 1, rtol=1e-9, max_iter=2)
    assert caught[0].filename == __file__


def test_not_converged_pickles(C):
    import pickle

    with pytest.raises(otkit.NotConverged) as raised:
        otkit.solve(C, reg=0.01, max_iter=2, strict=True)
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)
    assert again.result.n_iter == 2


def test_the_callback_sees_every_step_and_can_stop(C):
    seen = []
    result = otkit.solve(C, reg=0.01, callback=seen.append)
    assert result.converged
    assert len(seen) == len(result.errors)
    assert seen[-1].done.all()
    assert seen[-1].n_iter[0] == result.n_iter
    assert seen[-1].reg[0] == 0.01
    assert np.array_equal([p.error for p in seen], result.errors[:, None])
    with pytest.warns(otkit.ConvergenceWarning, match="by the callback"):
        stopped = otkit.solve(C, reg=0.01, method=otkit.Sinkhorn(sweeps=2), callback=lambda progress: True)
    assert stopped.status is otkit.Status.STOPPED
    x, y = np.random.default_rng(0).random((2, 1100, 2))
    with pytest.warns(otkit.ConvergenceWarning):
        assert otkit.wasserstein(x, y, rtol=1e-9, callback=lambda progress: True).status is otkit.Status.STOPPED


def test_solver_objects_carry_their_options_and_arguments_win(C):
    loose = otkit.Sinkhorn(tol=1e-2, factor=8.0)
    assert otkit.solve(C, reg=0.05, method=loose).tol == 1e-2
    assert otkit.solve(C, reg=0.05, method=loose, tol=1e-9).tol == 1e-9
    assert otkit.solve(C, reg=0.05, method="sinkhorn").method == "sinkhorn"
    assert otkit.solve(C, method=otkit.Annealing(rtol=1e-6)).tol == 1e-6
    stages = [len(otkit.solve(C, reg=1e-3, method=otkit.Sinkhorn(factor=k)).stages) for k in (2.0, 8.0, np.inf)]
    assert stages[0] > stages[1] > stages[2] == 1


def test_geometries_can_be_passed_to_solve(rng):
    x, y = rng.random((6, 2)), rng.random((5, 2))
    cloud = otkit.solve(otkit.PointCloud(x, y, "cityblock"), reg=0.1)
    dense = otkit.solve(otkit.Dense(abs(x[:, None] - y).sum(-1)), reg=0.1)
    assert cloud.value == pytest.approx(dense.value, rel=1e-12)
    assert cloud.barycentric().shape == (6, 2)


def test_nothing_warns_and_no_state_is_left_changed(rng):
    before = np.geterr()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        otkit.solve(rng.random((9, 9)), reg=1e-3)
    assert np.geterr() == before
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("C", [[[-0.3], [-0.1], [-0.7]], [[1.0], [-1.0]], [[0.0, 0.0]], [[-1e-30]]])
def test_costs_without_range_are_certified_at_once(C):
    result = otkit.solve(C)
    assert result.converged
    assert result.value == pytest.approx(np.mean(C))
    assert otkit.solve(C, reg=0.1).converged


def test_negative_optima_are_certified(rng):
    C = rng.random((20, 20)) - 5
    result = otkit.solve(C, rtol=1e-9)
    assert result.converged
    assert result.gap <= 1e-9 * abs(result.upper)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"factor": 0.5}, "factor must be above 1"), ({"sweeps": 0}, "sweeps must be a positive number"),
     ({"max_iter": 2.5}, "max_iter must be a whole number"), ({"stage_tol": 3}, "stage_tol .* below 1")],
)  # fmt: skip
def test_solver_options_are_checked(options, words):
    for solver in (otkit.Sinkhorn, otkit.Annealing):
        with pytest.raises(ValueError, match=words):
            solver(**options)


BAD = {
    "init of another batch": (
        lambda C: otkit.solve(C, reg=1, init=(np.zeros((3, 2)), np.zeros(2))),
        "leading axes of init f",
    ),
    "init in a list": (
        lambda C: otkit.solve(C, reg=1, init=[np.zeros(2), np.zeros(2)]),
        r"a tuple \(f, g\) or a Result, got list",
    ),
    "columns of another batch": (
        lambda C: otkit.solve(C).apply(np.zeros((3, 2, 4))),
        r"broadcast to the batch \(\) .* got \(3,\)",
    ),
    "no callback": (lambda C: otkit.solve(C, reg=1, callback=3), "callback must be a function of a Progress, got 3"),
    "a reg without a reciprocal": (
        lambda C: otkit.solve(C, reg=1e-310),
        "reg must be at least 2.23e-308, .* got 1e-310",
    ),
    "no factor": (
        lambda C: otkit.solve(C, reg=1, method=otkit.Sinkhorn(factor="4")),
        "factor must be above 1, got '4'",
    ),
    "no cotangent": (
        lambda C: otkit.vjp(otkit.solve(C, reg=1), value="1"),
        "the cotangent of value must hold real numbers",
    ),
    "transport of a matrix": (lambda C: otkit.solve(C).transport(C), r"cost matrix; use otkit\.solve_sample"),
    "the mean of no points": (lambda C: otkit.solve(C).barycentric(), "cost matrix; pass y="),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_in_words(name):
    call, words = BAD[name]
    with pytest.raises((ValueError, TypeError), match=words):
        call(np.eye(2))
