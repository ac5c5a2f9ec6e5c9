"""Several processes give the results of one, and refuse what they cannot share."""

import datetime

import numpy as np
import pytest
import scipy.sparse
from checks import torch
from parallel import run_at_once
from strategies import first

import otkit

N, M = 420, 300
CALLS = {
    "counted": {"reg": 0.01, "method": otkit.Sinkhorn(n_iters=20)},
    "converged": {"reg": 0.1, "tol": 1e-12},
    "interval": {"rtol": 1e-2, "method": "annealing"},
    "penalised": {"unbalanced": 0.2, "rtol": 1e-2, "method": "annealing"},
}


def data():
    rng = np.random.default_rng(0)
    return rng.random((N, 3)), rng.random((M, 3)) ** 2, rng.dirichlet(np.ones(N)), rng.standard_normal(M) / 10


def found(method):
    """Numbers of every call, one row each; `method` is that of the converged one."""
    x, y, a, g = data()
    rows = {}
    for name, options in CALLS.items():
        result = otkit.solve_sample(x, y, a, **({"method": method} if name == "converged" else {}) | options)
        rows[name] = [float(result.value), result.lower, result.upper, *result.f, *result.apply(y)[:, 0]]
    plan = np.outer(a, np.full(M, 1 / M))
    costs = ((x[:, None] - y) ** 2).sum(-1)
    rows["points"] = interval(otkit.certify(x, y, a, g=g, plan=plan))
    rows["costs"] = interval(otkit.certify(costs, a=a, g=g, plan=plan))
    rows["rounded"] = interval(otkit.certify(x, y, a, g=g, reg=0.1))
    tensors = (torch.as_tensor(v) for v in (x, y, a))
    rows["tensors"] = otkit.solve_sample(*tensors, **CALLS["counted"]).f.numpy()
    return rows


def interval(result):
    return [result.lower, result.upper, *result.f]


def work(rank, count, folder):
    dist = torch.distributed
    torch.set_num_threads(1)
    store, limit = dist.FileStore(f"{folder}/store", count), datetime.timedelta(seconds=300)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=limit)
    x, y, a, g = data()
    with otkit.sharded():
        rows = found("auto")
        for others in ((x + rank, y), (x, y, np.roll(a, rank)), (x, y[rank:])):
            with pytest.raises(ValueError, match="the same data"):
                otkit.solve_sample(*others, reg=1.0)
        with pytest.raises(ValueError, match="the same data"):
            otkit.certify(x, y, g=g + rank)
    np.savez(f"{folder}/{rank}.npz", **rows)
    dist.destroy_process_group()


@pytest.mark.parametrize("count", first(1, [2, 4]))
def test_processes_agree_with_one(count, tmp_path):
    run_at_once(work, (count, str(tmp_path)), count)
    alone = found("sinkhorn")
    for rank in range(count):
        shared = np.load(tmp_path / f"{rank}.npz")
        for name, row in alone.items():
            # Loose sweeps of one process leave out entries that do not matter at their tolerance.
            close = 1e-6 if name in ("interval", "penalised") else 1e-12
            np.testing.assert_allclose(shared[name], row, rtol=close, atol=close, err_msg=name)


@pytest.fixture
def group():
    """A group of this process."""
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_kernel_says_how_many_processes_shared(group):
    x, y, *_ = data()
    with otkit.sharded():
        result = otkit.solve_sample(x, y, reg=1.0)
    assert (result.method, result.kernel) == ("sinkhorn", "numba × 1 (numpy)")
    assert otkit.solve_sample(x, y, reg=1.0).kernel == "numba (numpy)"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x, y: otkit.solve_sample(x, y, reg=1.0, time_limit=9.0), "time_limit must be None"),
        (lambda x, y: otkit.solve_sample(x, y, reg=1.0, method="sns"), "got 'sns'; pass reg="),
        (lambda x, y: otkit.solve_sample(x, y), "got 'exact'"),
        (lambda x, y: otkit.solve_sample(x[:9], y[:9]), "got 'exact'"),
        (lambda x, y: otkit.solve_sample(x[:, :1], y[:, :1]), "got 'univariate'"),
        (lambda x, y: otkit.wasserstein(x, y), "got 'exact'"),
        (lambda x, y: otkit.wasserstein(x[:, :1], y[:, :1]), "got 'univariate'"),
        (lambda x, y: otkit.wasserstein(x, y, p=np.inf), "got 'bottleneck'"),
        (lambda x, y: otkit.pairwise([x, y]), "pairwise shares pairs"),
        (lambda x, y: otkit.solve_grid(x, x, reg=1.0), "must be a matrix or points, got Grid"),
        (lambda x, y: otkit.solve(scipy.sparse.eye_array(9).tocsr(), reg=1.0), "must be a matrix or points"),
    ],
)
def test_what_processes_cannot_share(group, call, reason):
    x, y, *_ = data()
    with otkit.sharded(), pytest.raises(ValueError, match=reason):
        call(x, y)


def test_an_interval_on_a_line_is_shared(group):
    x, y = (v[:, :1] for v in data()[:2])
    exact = otkit.wasserstein(x, y)
    with otkit.sharded():
        found = otkit.wasserstein(x, y, rtol=1e-2)
    assert found.result.method == "annealing"
    assert found.lower <= exact.distance <= found.upper <= 1.02 * found.lower


def test_a_group_is_needed():
    with pytest.raises(ValueError, match="init_process_group"), otkit.sharded():
        pass
