"""Threads change how long it takes and nothing else."""

import multiprocessing
import sys
import threading

import numpy as np
import pytest
from forms import in_groups

import otkit
from otkit.arrays import for_threads
from otkit.kernels import threads


def dense(n, m, items=()):
    C = np.random.default_rng(0).random((*items, n, m))
    return lambda: otkit.solve(C, reg=0.05, tol=1e-4)


def points(n, m, items=()):
    rng = np.random.default_rng(0)
    x, y = rng.random((*items, n, 3)), rng.random((*items, m, 3))
    return lambda: otkit.solve_sample(x, y, metric="euclidean", reg=0.2, tol=1e-4)


def unbalanced(n, m):
    rng = np.random.default_rng(0)
    C, a = rng.random((n, m)), 2 * rng.dirichlet(np.ones(n))
    return lambda: otkit.solve(C, a, reg=0.05, unbalanced=(1.0, 0.2), tol=1e-4)


def divergence(items, n, m, d):
    rng = np.random.default_rng(0)
    x, y = rng.random((items, n, d)), rng.random((items, m, d))
    return lambda: otkit.sinkhorn_divergence(x, y, reg=0.2, tol=1e-4)


PROBLEMS = {
    "a large matrix": dense(900, 640),
    "large clouds": points(900, 640),
    "a large unbalanced matrix": unbalanced(900, 640),
    "two large clouds": points(740, 730, (2,)),
    "small matrices": dense(110, 90, (80,)),
    "small clouds": points(60, 50, (200,)),
    "a small matrix": dense(70, 50),
}
NAMES = ("plan", "f", "g", "value", "value_linear", "error", "lower", "upper", "n_iter")


def answers(solve):
    result = solve()
    weights = np.linspace(0, 1, result.plan.shape[-1])
    return [np.asarray(getattr(result, name)) for name in NAMES] + [result.apply(weights), result.plan_sparse().mass]


@pytest.mark.parametrize("name", PROBLEMS)
def test_answers_do_not_depend_on_the_number_of_threads(name, monkeypatch):
    monkeypatch.setenv("OTKIT_NUM_THREADS", "1")
    wanted = answers(PROBLEMS[name])
    for count in ("2", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", count)
        for found, alone in zip(answers(PROBLEMS[name]), wanted, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_the_three_problems_of_a_divergence_do_not_depend_on_the_number_of_threads(monkeypatch):
    solve = divergence(12, 150, 130, 20)
    monkeypatch.setenv("OTKIT_NUM_THREADS", "1")
    wanted = solve()
    for count in ("2", "3"):
        monkeypatch.setenv("OTKIT_NUM_THREADS", count)
        found = solve()
        for name in ("value", "f", "g", "error"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_each_part_is_done_once_whatever_the_number_of_threads(monkeypatch):
    for count in (1, 2, 7):
        monkeypatch.setenv("OTKIT_NUM_THREADS", str(count))
        seen = []
        threads.each(seen.append, range(100), 2**30)
        assert sorted(seen) == list(range(100))


def test_idle_cores_help_and_busy_ones_do_not(monkeypatch):
    monkeypatch.setenv("OTKIT_NUM_THREADS", "2")
    met = threading.Barrier(2, timeout=60)
    threads.each(lambda part: met.wait(), range(2), 2**30)  # needs two threads at a time
    begun, done = threading.Event(), threading.Event()

    def other():
        with threads.at_work():
            begun.set()
            done.wait(60)

    one = threading.Thread(target=other)
    one.start()
    begun.wait(60)
    seen = []
    threads.each(lambda part: seen.append(threading.get_ident()), range(50), 2**30)
    done.set()
    one.join()
    assert seen == [threading.get_ident()] * 50
    threads.each(lambda part: met.wait(), range(2), 2**30)


def test_calls_within_parts_add_no_threads(monkeypatch):
    monkeypatch.setenv("OTKIT_NUM_THREADS", "3")
    lock, now, most = threading.Lock(), [0], [0]

    def inner(part):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(2e-3)
        with lock:
            now[0] -= 1

    threads.each(lambda part: threads.each(inner, range(4), 2**30), range(6), 2**30)
    assert now[0] == 0
    assert most[0] <= 3


@pytest.mark.parametrize("count", ["1", "3"])
def test_the_error_of_the_first_part_is_the_one_that_is_raised(count, monkeypatch):
    monkeypatch.setenv("OTKIT_NUM_THREADS", count)

    def solve(part):
        if part % 4 == 2:
            raise KeyError(part)
        return part * part

    assert threads.answers(solve, [4, 5, 7], 2**30, [2, 0, 1]) == [16, 25, 49]
    with pytest.raises(KeyError, match="2"):
        threads.answers(solve, range(8), 2**30, [7, 6, 5, 4, 3, 2, 1, 0])


@pytest.mark.parametrize("records", [True, False])
def test_other_threads_record_operations_where_the_caller_does(records, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("OTKIT_NUM_THREADS", "2")
    met = threading.Barrier(2, timeout=60)
    with torch.set_grad_enabled(records):
        seen = for_threads(lambda part: (met.wait(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())[1:])
        assert threads.answers(seen, range(2), 2**30) == [(records, False)] * 2
    with torch.inference_mode():
        seen = for_threads(lambda part: (met.wait(), torch.is_inference_mode_enabled())[1])
        assert threads.answers(seen, range(2), 2**30) == [True] * 2


@pytest.mark.parametrize(("given", "wanted"), [("3", 3), ("1", 1), ("0", 1)])
def test_the_number_of_threads_is_the_one_asked_for(given, wanted, monkeypatch):
    monkeypatch.setenv("OTKIT_NUM_THREADS", given)
    assert threads.count() == wanted


@pytest.mark.parametrize("given", ["", "many"])
def test_the_number_of_threads_is_that_of_the_cores_otherwise(given, monkeypatch):
    monkeypatch.setenv("OTKIT_NUM_THREADS", given)
    assert threads.count() >= 1


def test_the_number_of_threads_is_what_others_were_told(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.delenv("OTKIT_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_cores", lambda: 8)
    before = torch.get_num_threads()
    try:
        for told, wanted in ((1, 1), (3, 3), (20, 8)):
            torch.set_num_threads(told)
            assert threads.count() == wanted
    finally:
        torch.set_num_threads(before)
    monkeypatch.delitem(sys.modules, "torch")
    for told, wanted in (("2", 2), ("3,2", 3), ("", 8), ("all", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert threads.count() == wanted


def in_a_fork(end):
    end.send(answers(PROBLEMS["a large matrix"])[0])


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, if another test has loaded it
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_work_goes_on_in_a_forked_process(monkeypatch):
    monkeypatch.setenv("OTKIT_NUM_THREADS", "2")
    wanted = answers(PROBLEMS["a large matrix"])[0]  # starts the threads, which do not survive the fork
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=in_a_fork, args=(theirs,))
    process.start()
    theirs.close()  # then a process that dies is no reason to wait
    found = ours.recv()
    process.join()
    assert process.exitcode == 0
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("count", ["1", "2", "3"])
def test_what_a_metric_raises_reaches_the_caller(count, monkeypatch, rng):
    monkeypatch.setenv("OTKIT_NUM_THREADS", count)
    in_groups(monkeypatch, 100)
    monkeypatch.setattr(threads, "_WORTH", 0)
    x, y = rng.random((40, 2)), rng.random((30, 2))
    x[33] = 7.0

    def metric(x, y):
        if (x == 7.0).any():
            raise ZeroDivisionError("of the metric")
        return abs(x[:, :, None] - y[:, None]).sum(-1)

    with pytest.raises(ZeroDivisionError, match="of the metric"):
        otkit.solve_sample(x, y, metric=metric, reg=0.1)
    x[33] = 0.5  # and the threads are there for the next call
    assert otkit.solve_sample(x, y, metric=metric, reg=0.1).converged
