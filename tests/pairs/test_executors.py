"""Pairs on executors: the same matrix, bitwise, also where a worker dies."""

import gc
import os
import pickle
import signal
import threading
import time
import warnings
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import otkit
from otkit.pairs import blocks, work


@pytest.fixture(scope="module")
def measures():
    rng = np.random.default_rng(0)
    clouds = [(rng.random((n, 2)), rng.dirichlet(np.ones(n))) if n % 2 else rng.random((n, 2)) for n in range(3, 19)]
    return [*clouds, rng.random((40, 2)), rng.random((50, 2))]


@pytest.fixture(scope="module")
def expected(measures):
    return otkit.pairwise(measures, workers=1)


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("otkit.pairs.face.side_for", lambda *_: 3)


def same(one, other):
    for name, v in one.condensed.arrays.items():
        assert_array_equal(v, other.condensed.arrays[name])


def test_a_process_pool_gives_the_same_matrix(measures, expected, processes):
    same(otkit.pairwise(measures, executor=processes), expected)
    rectangle = otkit.pairwise(measures[:4], measures[4:], executor=processes, workers=2)
    assert_array_equal(rectangle.distance, expected.distance[:4, 4:])
    near = otkit.pairwise(measures, neighbours=2, executor=processes)
    assert_array_equal(near.distance, np.sort(expected.distance, axis=1)[:, 1:3])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_calling_thread_solves_blocks_as_well(workers, measures, expected, monkeypatch):
    seen, met = [], threading.Barrier(workers, timeout=60)

    def solve(task, stopped):
        if threading.get_ident() not in seen:  # its first: wait for that of each other
            met.wait()
        seen.append(threading.get_ident())
        return blocks.solve(task, stopped)

    monkeypatch.setattr(work, "solve", solve)
    same(otkit.pairwise(measures, workers=workers), expected)
    assert threading.get_ident() in seen
    assert len(set(seen)) == workers


class Recorder(ThreadPoolExecutor):
    """An executor that keeps what it is given, and counts what is in flight."""

    def __init__(self):
        super().__init__(2)
        self.tasks, self.flying, self.most, self.lock = [], 0, 0, threading.Lock()

    def submit(self, function, task):
        with self.lock:
            self.flying += 1
            self.most = max(self.most, self.flying)
        self.tasks.append(task)
        future = super().submit(function, task)
        future.add_done_callback(self._landed)
        return future

    def _landed(self, _):
        with self.lock:
            self.flying -= 1


def test_tasks_carry_the_measures_of_their_block_and_few_are_in_flight(rng, monkeypatch):
    monkeypatch.setattr("otkit.pairs.face.side_for", lambda *_: 2)
    clouds = list(rng.random((40, 30, 2)))
    with Recorder() as executor:
        otkit.pairwise(clouds, executor=executor, workers=3)
    assert len(executor.tasks) == 210
    assert executor.most <= 6
    assert max(len(task.clouds) for task in executor.tasks) == 4
    assert max(len(pickle.dumps(task)) for task in executor.tasks) < 2 * 4 * 30 * 3 * 8


@pytest.mark.parametrize("d", [1, 20])
def test_bounds_do_not_depend_on_what_a_task_carries(rng, d):
    """In many dimensions, rounding is bounded by the radius of all measures."""
    clouds = [x + 100 * rng.random(d) for x in rng.random((9, 6, d))]
    with ThreadPoolExecutor(2) as executor:
        same(otkit.pairwise(clouds, executor=executor), otkit.pairwise(clouds))


def test_an_error_comes_from_where_it_arose(rng):
    """Points may lie so close in one pair that its costs underflow."""
    wide, near = rng.random((4, 2)), 1e-200 * rng.random((4, 2))
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match=r"measures 1 and 4, as x and y: .*underflow"),
    ):
        otkit.pairwise([wide, near, 0 * wide - 1, wide + 3, near[:2]], executor=executor)


def test_an_executor_that_is_shut_down_is_an_error(measures, tmp_path):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        otkit.pairwise(measures, executor=executor)


class Dying(ThreadPoolExecutor):
    """A process pool whose worker dies at a task: later futures break, and no more are taken."""

    def __init__(self, after):
        super().__init__(1)
        self.left = after

    def submit(self, function, task):
        self.left -= 1
        if self.left >= 0:
            future = Future()
            future.set_result(function(task))
            return future
        raise BrokenExecutor("A child process terminated abruptly.")


def test_what_is_done_is_kept_when_a_pool_breaks(measures, expected, tmp_path, monkeypatch):
    with pytest.raises(BrokenExecutor, match=r"a worker of the executor died.*with a new executor goes on"):
        otkit.pairwise(measures, executor=Dying(7), folder=tmp_path / "pairs")
    assert len(list((tmp_path / "pairs" / "blocks").iterdir())) == 7
    solved = []
    monkeypatch.setattr(work, "solve", lambda *task: solved.append(task) or blocks.solve(*task))
    same(otkit.pairwise(measures, folder=tmp_path / "pairs", workers=1), expected)
    assert len(solved) == 21 - 7


def kill_once(folder):
    """Kill this process, unless that was done before."""
    mark = os.path.join(folder, "killed")
    if not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)


def deadly_solve(task):
    kill_once(os.environ["OTKIT_TEST_FOLDER"])
    return blocks.solve(task)


def test_a_process_that_is_killed(measures, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("OTKIT_TEST_FOLDER", str(tmp_path))
    whole = work.solve
    calls = []

    class Pool(ProcessPoolExecutor):
        def submit(self, function, task):
            calls.append(task)
            return super().submit(deadly_solve if len(calls) == 6 else whole, task)

    spawned = Pool(1, mp_context=get_context("spawn"))
    with spawned as pool, pytest.raises(BrokenExecutor, match="a worker of the executor died"):
        otkit.pairwise(measures, executor=pool, workers=1, folder=tmp_path / "pairs")
    assert (tmp_path / "killed").exists()
    assert 1 <= len(list((tmp_path / "pairs" / "blocks").iterdir())) <= 6
    same(otkit.pairwise(measures, folder=tmp_path / "pairs"), expected)


# Dask


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster
    with warnings.catch_warnings():  # sockets that the cluster leaves open are no matter of the next test
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def client(cluster):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.mark.filterwarnings("default")
def test_dask_gives_the_same_matrix(measures, expected, client):
    same(otkit.pairwise(measures, executor=client.get_executor()), expected)
    assert len(set(client.run(os.getpid).values()) - {os.getpid()}) == 2


@pytest.mark.filterwarnings("default")
def test_dask_solves_again_what_a_dead_worker_had(measures, expected, client):
    executor = client.get_executor()
    before = set(client.run(os.getpid).values())
    victim = min(before)
    submitted = []

    class Killing:
        """The executor, of which one worker is killed when half of the tasks are there."""

        def submit(self, function, task):
            submitted.append(task)
            if len(submitted) == 11:
                os.kill(victim, signal.SIGKILL)
            return executor.submit(function, task)

    same(otkit.pairwise(measures, executor=Killing(), workers=2), expected)
    limit = time.monotonic() + 60
    while victim in (now := set(client.run(os.getpid).values())) or len(now) < 2:
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert len(submitted) == 21
