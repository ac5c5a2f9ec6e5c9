"""Launches captured in CUDA graphs, by a stand-in that records what is launched while it captures."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import otkit  # noqa: E402
from otkit.kernels.triton import cg as triton_cg  # noqa: E402
from otkit.kernels.triton import graphs  # noqa: E402
from otkit.kernels.triton import launch as launching  # noqa: E402
from otkit.kernels.triton import sweep as triton_sweep  # noqa: E402
from otkit.linalg import cg  # noqa: E402


class Recorded:
    """A graph of the launches through `launch` while it captures."""

    made: list = []
    capturing = None

    def __init__(self):
        self.launches, self.replays = [], 0
        Recorded.made.append(self)

    def capture_begin(self, capture_error_mode):
        assert capture_error_mode == "thread_local"
        Recorded.capturing = self

    def capture_end(self):
        Recorded.capturing = None

    def replay(self):
        self.replays += 1
        for call in self.launches:
            call()


@pytest.fixture
def recorded(monkeypatch):
    """Kernels run as if on a GPU with graphs; the number of waits for the device."""
    monkeypatch.setattr(Recorded, "made", [])
    monkeypatch.setattr(graphs, "refused", set())
    monkeypatch.setattr(graphs, "_has_graphs", lambda like: not graphs.refused)
    waits = []
    stream = SimpleNamespace(synchronize=lambda: waits.append(1))
    for name, fake in (
        ("CUDAGraph", Recorded),
        ("Stream", lambda device: stream),
        ("stream", lambda stream: nullcontext()),
        ("current_stream", lambda device: stream),
    ):
        monkeypatch.setattr(torch.cuda, name, fake)
    for module in (triton_sweep, triton_cg):

        def launch(*args, **options):
            call = lambda: launching.launch(*args, **options)  # noqa: E731
            call() if Recorded.capturing is None else Recorded.capturing.launches.append(call)

        monkeypatch.setattr(module, "launch", launch)
    return waits


def test_the_second_call_is_captured_and_later_ones_are_replayed(recorded):
    done = []

    def function():
        one = lambda: done.append(1)  # noqa: E731
        one() if Recorded.capturing is None else Recorded.capturing.launches.append(one)

    with graphs.Repeated(function, torch.zeros(1)) as repeated:
        for calls in range(1, 6):
            repeated()
            assert len(done) == calls
        assert not recorded
    assert [(len(graph.launches), graph.replays) for graph in Recorded.made] == [(1, 4)]
    assert recorded == [1]  # the graph lives until its launches have run


def test_one_call_needs_no_graph(recorded):
    with graphs.Repeated(lambda: None, torch.zeros(1)) as repeated:
        repeated()
    assert not Recorded.made
    assert not recorded


@pytest.mark.parametrize("stage", ["capture_begin", "capture_end"])
def test_launches_that_cannot_be_captured_run_one_by_one(recorded, stage, monkeypatch):
    def refuse(*_, **__):
        Recorded.capturing = None
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorded, stage, refuse)
    done = []

    def thrice():
        with graphs.Repeated(lambda: Recorded.capturing or done.append(1), torch.zeros(1)) as repeated:
            for _ in range(3):
                repeated()

    with pytest.warns(RuntimeWarning, match="launched one by one.* not permitted when stream is capturing") as warned:
        thrice()
    thrice()
    assert len(warned) == 1
    assert len(done) == 6
    assert len(Recorded.made) == 1  # it is not tried again
    assert graphs.refused == {"operation not permitted when stream is capturing"}


def test_the_host_has_graphs_of_tensors_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(graphs, "refused", set())
    assert graphs._has_graphs(SimpleNamespace(is_cuda=True))
    assert not graphs._has_graphs(torch.zeros(1))


def test_checks_follow_chunks_that_double():
    """The end is seen one chunk late: soon after a short solve."""
    asked, steps = [], []
    ended = lambda: asked.append(len(steps)) or torch.tensor(int(len(steps) >= 4))  # noqa: E731
    assert launching.follow(steps.append, ended, 100, 16, 4)
    assert asked == [4, 12]
    asked, steps = [], []
    assert not launching.follow(steps.append, lambda: asked.append(len(steps)) or torch.tensor(0), 50, 16, 4)
    assert asked == [4, 12, 28, 44, 50]
    assert steps == list(range(50))


def test_iterations_of_a_graph(device, recorded, monkeypatch, rng):
    """They are those of single launches, to the bit; nothing else than kernels is enqueued."""
    if device != "cpu":
        pytest.skip("needs Triton's interpreter")
    monkeypatch.setattr(triton_sweep, "_SMALL", 0)
    C = torch.as_tensor(rng.random((11, 13)))
    found = otkit.solve(C, reg=0.1, tol=1e-9, method="sinkhorn")
    assert sum(graph.replays for graph in Recorded.made) > 4
    monkeypatch.setattr(graphs, "_has_graphs", lambda like: False)
    wanted = otkit.solve(C, reg=0.1, tol=1e-9, method="sinkhorn")
    assert torch.equal(found.f, wanted.f)
    assert torch.equal(found.g, wanted.g)
    assert found.n_iter == wanted.n_iter


def test_conjugate_gradients_of_a_graph(device, recorded, monkeypatch, rng):
    if device != "cpu":
        pytest.skip("needs Triton's interpreter")
    T = rng.random((9, 12)) / 40
    rows, cols = (torch.as_tensor(np.ascontiguousarray(k)) for k in np.nonzero(T))
    sparse = triton_cg.compressed((rows, cols, torch.as_tensor(T[T > 0])), T.shape)
    matrix = cg.Schur(1.0, *sparse, np.ones(12))
    rhs = rng.random(12)
    found = triton_cg.conjugate_gradients(matrix, rhs, np.zeros(12), 1e-12, 40)
    assert [len(graph.launches) for graph in Recorded.made] == [3, 3]  # either direction of the buffers
    np.testing.assert_allclose(found.y - T.T @ (T @ found.y), rhs, rtol=1e-9)
    monkeypatch.setattr(graphs, "_has_graphs", lambda like: False)
    wanted = triton_cg.conjugate_gradients(matrix, rhs, np.zeros(12), 1e-12, 40)
    np.testing.assert_array_equal(found.y, wanted.y)
    assert found.steps == wanted.steps
