"""Launches that need no GPU: the sizes of their grids, the streams that they are on, and the GPUs that they are not for."""

import ast
import shutil
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from otkit import Dense, arrays, kernels  # noqa: E402
from otkit.entropic.anderson import Mixing  # noqa: E402
from otkit.entropic.dual import Penalties, Potentials  # noqa: E402
from otkit.geometry.reduced import Reduced  # noqa: E402
from otkit.kernels.triton import CUPY, TRITON, cupy, launch, sweep  # noqa: E402
from otkit.kernels.triton import operations as ops  # noqa: E402
from otkit.solvers import descent  # noqa: E402

# Maximum sizes of the axes of a grid.
MOST = 2**31 - 1, 65_535, 65_535


@pytest.fixture
def grids(monkeypatch):
    """The grids of launches, none of which is run, as on a GPU."""
    found = []
    for module in (launch, ops, sweep):
        monkeypatch.setattr(module, "launch", lambda kernel, grid, *args, **options: found.append(grid))
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    return found


@pytest.mark.parametrize("precision", [launch.SINGLE, launch.MIXED, launch.DOUBLE])
@pytest.mark.parametrize(("n", "items"), [(1, 2**20), (100, 100_000), (2**20, 1), (2**24, 4), (2**31, 1)])
def test_every_row_of_every_item_has_a_program(grids, precision, n, items):
    form = launch.shape(n, items, precision)
    grid = launch.programs(n, items, form)
    assert all(size <= most for size, most in zip(grid, MOST, strict=False))
    assert items * n <= grid[0] * form.rows < items * (n + form.rows)


def test_millions_of_rows_or_columns_and_many_items(grids):
    def full(*size):
        return torch.zeros(size, dtype=torch.float64)

    for items, n, m in ((1, 2**21 + 1, 1), (2**17, 5, 1)):
        given = Dense(torch.zeros((1, 1, 1), dtype=torch.float32).expand(items, n, m))
        for costs in (given, given.T):
            costs = Reduced(costs, full(items, costs.n), full(items, costs.m))
            one = full(items) + 1
            at = Potentials(costs.row, costs.col, costs.row, costs.col, one)
            ops.softmin(costs, at.g, at.g, at.reg)
            ops.c_transform(costs, at.g)
            ops.transport_cost(costs, at)
            ops.cost_range(costs, at.f == 0, at.g == 0)
            for precision in (launch.SINGLE, launch.MIXED, launch.DOUBLE):
                state = sweep.begin(costs, at, Penalties(one, one), Mixing.begin(at.g, one, 0), one, one)
                sweep.iteration(state, costs, items, precision)()
    assert len(grids) > 40
    assert all(size <= most for grid in grids for size, most in zip(grid, MOST, strict=False))


@pytest.mark.parametrize(
    ("m", "window", "kernels"),
    [
        (10_000, 30, ["rows", "columns", "differences", "decide", "combine", "advance"]),
        (10_000, 0, ["rows", "columns", "decide", "advance"]),
        (40_000, 30, ["update_rows", "update_columns", "differences", "decide", "combine", "advance"]),
    ],
)
def test_launches_of_an_iteration(m, window, kernels, monkeypatch):
    """All but one of an item share its columns between programs, of which there are enough to fill a GPU."""
    found = {}
    monkeypatch.setattr(sweep, "launch", lambda kernel, grid, *args, **options: found.update({kernel.__name__: grid}))
    zeros, one = torch.zeros((1, m), dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    costs = Reduced(Dense(torch.zeros((1, 1, m), dtype=torch.float32).expand(1, m, m)), zeros, zeros)
    at = Potentials(zeros, zeros, zeros, zeros, one)
    state = sweep.begin(costs, at, Penalties(one, one), Mixing.begin(zeros, one, window), one, one)
    sweep.iteration(state, costs, 1, launch.SINGLE)()
    assert list(found) == kernels
    assert found.pop("decide") == (1,)
    assert all(np.prod(grid) >= 132 for grid in found.values())


@pytest.mark.parametrize(("n", "host", "gpu"), [(1000, 100, 100), (10_000, 21, 100), (50_000, 1, 13)])
def test_a_gpu_is_asked_after_more_entries_than_the_host(n, host, gpu):
    state = SimpleNamespace(effort=np.array([np.nan]))
    for of, wanted in ((kernels.REFERENCE, host), (TRITON, gpu), (CUPY, gpu)):
        problem = SimpleNamespace(kernels=of, reduced=SimpleNamespace(n=n, m=n))
        assert descent.patience(problem, state).tolist() == [wanted]


def test_rows_are_shared_by_as_many_programs_as_a_gpu_runs_at_once(grids, monkeypatch):
    """Two for each multiprocessor if their registers suffice."""
    properties = SimpleNamespace(multi_processor_count=108)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert launch.processors(SimpleNamespace(is_cuda=True, device="cuda:1")) == 108
    monkeypatch.setattr(sweep, "processors", lambda like: 108)
    for m, precision, wanted in ((1000, launch.SINGLE, 216), (1000, launch.DOUBLE, 108), (10_000, launch.SINGLE, 108)):
        zeros, one = torch.zeros((1, m), dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        costs = Reduced(Dense(torch.zeros((1, 1, m), dtype=torch.float32).expand(1, m, m)), zeros, zeros)
        at = Potentials(zeros, zeros, zeros, zeros, one)
        state = sweep.begin(costs, at, Penalties(one, one), Mixing.begin(zeros, one, 0), one, one)
        grids.clear()
        sweep.iteration(state, costs, 1, precision)()
        assert grids[0] == (1, wanted)


@pytest.mark.parametrize(("pointer", "wanted"), [(0, ("default", 1)), (77, ("external", 77, 1))])
@pytest.mark.parametrize("operation", ["bridged", "streamed"])
def test_operations_on_arrays_of_cupy_are_on_its_stream(pointer, wanted, operation, monkeypatch):
    """An external stream of pointer 0 would be a new one."""
    used = []
    null = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=pointer)))
    monkeypatch.setitem(sys.modules, "cupy", null)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: used.append(stream) or nullcontext())
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer, device: ("external", pointer, device))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: ("default", device))
    array = SimpleNamespace(device=SimpleNamespace(id=1))
    for name in ("is_cupy", "on_gpu"):
        monkeypatch.setattr(cupy, name, lambda x: x is array)
    monkeypatch.setattr(cupy, "namespace", lambda *x: SimpleNamespace(from_dlpack=None))
    monkeypatch.setattr(cupy, "map_arrays", lambda function, tree: function(tree[0]) if tree == (array,) else tree)
    geometry = SimpleNamespace(arrays={"C": array}) if operation == "bridged" else array
    getattr(cupy, operation)(lambda x: x)(geometry)
    assert used == [wanted]


def test_every_operation_of_triton_has_a_version_for_cupy():
    own = {name for name, of in vars(TRITON).items() if of is not getattr(kernels.REFERENCE, name)}
    assert {name for name in own if getattr(CUPY, name) is getattr(TRITON, name)} == {"name", "pace"}


@pytest.fixture
def faked(monkeypatch):
    """A GPU for which kernels compile."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(launch.Path, "exists", lambda path: True)


def test_a_gpu_that_fits(faked):
    assert launch.unfit(0) == ""


@pytest.mark.parametrize(
    ("where", "name", "value", "reason"),
    [
        (torch.version, "hip", "7.0", "AMD are not supported"),
        (torch.cuda, "get_device_capability", lambda device: (7, 0), "compute capability 7.5 or later"),
        (shutil, "which", lambda name: None, "needs a C compiler, and found none of .*; install gcc, or set CC"),
        (launch.Path, "exists", lambda path: False, "Python.h is missing; install python3-dev"),
    ],
)
def test_other_gpus_run_the_reference_and_one_warning_says_so(where, name, value, reason, faked, monkeypatch):
    """Triton refuses for AMD what limits registers."""
    kernels._fits.cache_clear()
    monkeypatch.setattr(where, name, value)
    monkeypatch.setattr(arrays, "on_gpu", lambda x: True)
    costs = Dense(torch.zeros((1, 2, 3)))
    with pytest.warns(RuntimeWarning, match=f"the reference runs in place of Triton's kernels: .*{reason}"):
        assert kernels.choose(costs).name == "reference"
    assert kernels.choose(costs).name == "reference"
    kernels._fits.cache_clear()


class OfGPU:
    """Stands in for a number on a GPU."""

    is_cuda, device, shape, dtype = True, "cuda:1", (), torch.int32


def test_room_is_what_is_free_on_the_device_or_kept_by_torch(monkeypatch):
    assert launch.room(torch.zeros(1)) == float("inf")
    sizes = {"mem_get_info": (100, 999), "memory_reserved": 70, "memory_allocated": 30}
    for name, size in sizes.items():
        monkeypatch.setattr(torch.cuda, name, {"cuda:1": size}.__getitem__)
    assert launch.room(OfGPU()) == 140


def test_arcs_that_do_not_fit_on_the_device_are_too_many(grids, monkeypatch):
    """Every row has an arc. What a caller cannot do without is not refused."""
    monkeypatch.setattr(torch, "empty", torch.ones)
    zeros, one = torch.zeros((1, 5), dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    costs, at = Dense(torch.zeros((1, 5, 5))), Potentials(zeros, zeros, zeros, zeros, one)
    for arcs, limit, some in ((4, 9, False), (5, 9, True), (5, 4, False), (0, float("inf"), True)):
        monkeypatch.setattr(ops, "room", lambda like, arcs=arcs: ops._PER_ARC * arcs)
        assert (ops.select(costs, at, zeros, zeros, limit) is not None) == some


def test_pinned_memory_is_made_in_the_context_of_its_device(monkeypatch):
    """In another context it would take half a gigabyte of another GPU."""
    log = []

    @contextmanager
    def device_of(like):
        log.append(like.device)
        yield
        log.append("left")

    def empty(shape, *, dtype, pin_memory):
        log.append(("pinned", pin_memory))
        return SimpleNamespace(copy_=lambda now, non_blocking: log.append("copied"))

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: log.append("recorded")))
    monkeypatch.setattr(torch, "empty", empty)
    launch.DelayedRead(OfGPU)()
    assert log == ["cuda:1", ("pinned", True), "copied", "recorded", "left"]


def test_constants_stand_on_the_right():
    """Triton 3.8 keeps a constant times a number of the device a constant, in its interpreter."""
    folder = Path(launch.__file__).parent
    trees = [ast.parse(path.read_text()) for path in sorted(folder.glob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    constants = {
        name.id
        for node in nodes
        if isinstance(node, ast.Assign) and "tl.constexpr" in ast.unparse(node.value)
        for target in node.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    assert "_WORSE" in constants
    products = [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)]
    left = [node for node in products if isinstance(node.left, ast.Name)]
    assert not [
        ast.unparse(node) for node in left if node.left.id in constants and not _is_constant(node.right, constants)
    ]


def _is_constant(node, constants):
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in constants)
