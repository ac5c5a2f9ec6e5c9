"""Time limits, Ctrl-C and progress: the best interval so far comes back, and it is valid."""

import io
import os
import signal
import sys
import threading
import time

import numpy as np
import ot
import pytest

import otkit
from otkit.solvers import watch

STOPPED = otkit.Status.STOPPED


@pytest.fixture
def cloud(rng):
    x, y = rng.random((60, 2)), rng.random((70, 2)) ** 2
    return x, y, ot.emd2([], [], ((x[:, None] - y) ** 2).sum(-1))


@pytest.fixture
def long(monkeypatch):
    """Every run counts as long."""
    monkeypatch.setattr(watch, "_LONG", 0.0)


def interrupt(times=1):
    """A callback that sends Ctrl-C so many times."""

    def callback(progress):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    return callback


@pytest.fixture(autouse=True)
def handled():
    """Ctrl-C as in a terminal: processes in the background begin without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


METHODS = {
    "exact": {},
    "annealed": {"rtol": 1e-9, "method": "annealing"},
    "sns": {"reg": 1e-4},
    "sinkhorn": {"reg": 1e-4, "method": otkit.Sinkhorn(sweeps=1)},
    "greedy": {"method": "exact", "init": (np.zeros(60), np.zeros(70))},
}


@pytest.mark.parametrize("name", METHODS)
def test_the_interval_at_the_time_limit_contains_the_optimum(cloud, name, monkeypatch):
    monkeypatch.setattr("otkit.solvers.exact.solver._PIVOTS", 5)
    x, y, exact = cloud
    with pytest.warns(otkit.ConvergenceWarning, match="time_limit") as caught:
        found = otkit.solve_sample(x, y, time_limit=1e-9, **METHODS[name])
    assert len(caught) == 1
    assert found.status is STOPPED
    assert len(found.errors) == 1
    assert found.lower <= exact <= found.upper < np.inf
    rows, cols = found.marginals
    if "reg" not in METHODS[name]:
        assert abs(rows - 1 / 60).sum() + abs(cols - 1 / 70).sum() < 1e-12
        np.testing.assert_allclose(float(found.value), found.upper, rtol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_a_limit_that_is_not_reached_changes_nothing(cloud, name):
    x, y, _ = cloud
    # A problem as small as this one is solved by another loop if nothing can end it.
    plain, limited = (
        otkit.solve_sample(x, y, **METHODS[name], **o) for o in ({"callback": lambda _: None}, {"time_limit": 1e6})
    )
    assert limited.converged
    np.testing.assert_array_equal(plain.f, limited.f)


def test_a_plan_that_is_not_feasible_yet_is_completed(monkeypatch, rng):
    monkeypatch.setattr("otkit.solvers.exact.solver._PIVOTS", 1)
    for _ in range(5):
        C, a, b = rng.random((20, 30)), rng.dirichlet(np.full(20, 0.3)), rng.dirichlet(np.full(30, 0.3))
        with pytest.warns(otkit.ConvergenceWarning):
            found = otkit.solve(np.stack([C, C.max() - C]), a, b, time_limit=1e-9)
        for k, costs in enumerate((C, C.max() - C)):
            assert found.lower[k] <= ot.emd2(a, b, costs) <= found.upper[k] <= costs.max() + 1e-12
        assert abs(found.plan.sum(-1) - a).sum() + abs(found.plan.sum(-2) - b).sum() < 1e-12
    forbidden = np.where(rng.random((20, 20)) < 0.5, np.inf, rng.random((20, 20)))
    np.fill_diagonal(forbidden, 5.0)
    with pytest.warns(otkit.ConvergenceWarning):
        early = otkit.solve(forbidden, time_limit=1e-9)
    assert early.upper >= ot.emd2([], [], np.where(np.isinf(forbidden), 1e3, forbidden))


def test_distances_stop_too_and_strict_raises(rng):
    x, y = rng.random((2, 1100, 2))
    exact = otkit.wasserstein(x, y).distance
    with pytest.warns(otkit.ConvergenceWarning, match="The distance lies in"):
        found = otkit.wasserstein(x, y, rtol=1e-9, time_limit=1e-9)
    assert found.lower <= exact <= found.upper
    with pytest.raises(otkit.NotConverged) as raised:
        otkit.wasserstein(x, y, rtol=1e-9, time_limit=1e-9, strict=True)
    assert raised.value.result.status is STOPPED
    with pytest.raises(ValueError, match="p=inf"):
        otkit.wasserstein(x, y, p=np.inf, time_limit=1.0)


@pytest.mark.parametrize("limit", [0, -1.0, np.nan, "1"])
def test_limits_that_are_no_times_are_refused(cloud, limit):
    with pytest.raises(ValueError, match="time_limit must be a positive number"):
        otkit.solve_sample(*cloud[:2], time_limit=limit)


def test_a_function_as_progress_is_refused(cloud):
    with pytest.raises(TypeError, match="pass a function as callback="):
        otkit.solve_sample(*cloud[:2], progress=print)


def test_the_progress_has_stages_the_gap_and_the_time(cloud):
    x, y, _ = cloud
    seen = []
    found = otkit.solve_sample(x, y, method="annealing", rtol=1e-4, callback=seen.append, time_limit=100.0)
    assert [int(p.stage[0]) for p in seen] == sorted(int(p.stage[0]) for p in seen)
    assert seen[-1].stage[0] == len(found.stages) - 1 > 0
    np.testing.assert_allclose(seen[-1].gap[0], found.gap / found.upper, rtol=1e-9)
    for p in seen:
        np.testing.assert_allclose(p.seconds + p.seconds_left, 100.0)
    otkit.solve_sample(x, y, callback=seen.append)
    assert np.isnan(seen[-1].gap[0])
    assert seen[-1].seconds_left == np.inf


@pytest.mark.usefixtures("long")
def test_ctrl_c_returns_what_there_is_and_the_second_one_raises(cloud):
    x, y, exact = cloud
    with pytest.warns(otkit.ConvergenceWarning, match="Ctrl-C"):
        found = otkit.solve_sample(x, y, method="annealing", rtol=1e-9, callback=interrupt())
    assert found.status is STOPPED
    assert found.lower <= exact <= found.upper
    with pytest.raises(KeyboardInterrupt):
        otkit.solve_sample(x, y, method="annealing", rtol=1e-9, callback=interrupt(2))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_short_run_raises(cloud):
    with pytest.raises(KeyboardInterrupt):
        otkit.solve_sample(*cloud[:2], method="annealing", rtol=1e-9, callback=interrupt())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("long")
def test_other_threads_and_other_handlers_are_left_alone(cloud):
    handlers, taken = [], []

    def look(progress):
        handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: otkit.solve_sample(*cloud[:2], rtol=1e-2, callback=look))
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGINT, lambda *_: taken.append(True))
    try:
        mine = signal.getsignal(signal.SIGINT)
        otkit.solve_sample(*cloud[:2], rtol=1e-2, callback=look)
    finally:
        signal.signal(signal.SIGINT, before)
    assert set(handlers) == {signal.default_int_handler, mine}


def test_the_bar_is_drawn_on_terminals_only(cloud, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, words in ((io.StringIO(), ""), (Terminal(), "stage")):
        monkeypatch.setattr(sys, "stderr", stream)
        otkit.solve_sample(*cloud[:2], method="annealing", rtol=1e-4, progress=True, time_limit=100.0)
        assert words in stream.getvalue()
        assert bool(words) == bool(stream.getvalue())
    assert "gap" in stream.getvalue()
    assert "at most 100 s" in stream.getvalue()
    batch = np.stack([cloud[0]] * 2)
    otkit.solve_sample(batch, cloud[1], reg=0.01, method="sinkhorn", progress=True)
    assert "2 of 2 done" in stream.getvalue()
