"""What Triton's kernels become in machine code, for GPUs that need not be there.

A case is a call, whose launches are compiled in place of being run: with the shapes, the alignments and the constants
that they would have.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

from device.compiled import compiled  # noqa: E402

from otkit.entropic.anderson import WINDOW, Mixing  # noqa: E402
from otkit.entropic.dual import Penalties, Potentials  # noqa: E402
from otkit.geometry import Dense, PointCloud  # noqa: E402
from otkit.geometry.reduced import Reduced  # noqa: E402
from otkit.kernels.triton import TRITON, cg  # noqa: E402
from otkit.kernels.triton import operations as ops  # noqa: E402
from otkit.kernels.triton import sweep as iterations  # noqa: E402
from otkit.kernels.triton.launch import BUSY, DOUBLE, MIXED, SINGLE, shape  # noqa: E402
from otkit.linalg.cg import Schur  # noqa: E402

ALL, QUICK = (80, 89, 90, 100), 90
# Triton before 3.9 unrolls loops otherwise. Its ptxas, and any for sm_80, keeps a few registers of rare branches in memory.
EXACT = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9)
HOT = {"rows", "columns", "differences", "decide", "combine", "advance"}  # kernels that keep none
RARE = 16  # the most loads and stores of others
TENSOR_CORE = r"HMMA|HGMMA|UTC\w*MMA"
MANY, FEW, COLUMNS = 32 * BUSY, 1024, 1024  # rows for programs of either shape


@dataclass(frozen=True)
class Must:
    """What holds for a kernel, none of which may keep registers in memory.

    Attributes
    ----------
    exponentials : tuple of int, optional
        Those of float32 per thread, in all and in the shortest loop that has any.
    wide : int
        Loads of 128 bits, at least: in that loop, or in the kernel where there is none.
    ahead : bool
        Whether the next rows have to be loaded meanwhile, to shared memory.
    tensor : bool
        Whether matrices are multiplied by tensor cores.
    """

    exponentials: tuple[int, int] | None = (0, 0)
    wide: int = 0
    ahead: bool = False
    tensor: bool = False


@dataclass(frozen=True)
class Case:
    """A call, what must hold for each of the kernels that it launches, and where; `quick` if no quicker one is like it."""

    name: str
    call: Callable[[], object] = field(repr=False)
    kernels: dict[str, Must]
    capabilities: tuple[int, ...] = (90,)
    quick: bool = True


def full(value, *size):
    return torch.full(size, value, dtype=torch.float64)


def dense(dtype, n, m, items=1):
    return Dense(torch.empty((items, n, m), dtype=dtype))  # memory that nobody touches


def transposed(dtype, n, m):
    return dense(dtype, m, n).T


def cloud(metric, n, m, d=3):
    return PointCloud(full(0.0, 1, n, d), full(0.0, 1, m, d), metric)


GEOMETRIES = {
    "float32": partial(dense, torch.float32),
    "float32 transposed": partial(transposed, torch.float32),
    "float64": partial(dense, torch.float64),
    "float64 transposed": partial(transposed, torch.float64),
    "squared distances": partial(cloud, "sqeuclidean"),
    "distances": partial(cloud, "euclidean"),
    "many coordinates": partial(cloud, "sqeuclidean", d=64),
}
PRECISIONS = {"single": SINGLE, "mixed": MIXED, "double": DOUBLE}


def per_thread(n, precision, dtype=None):
    """Entries of a tile that each thread has, and the loads of 128 bits that they take."""
    form = shape(n, 1, precision)
    entries = form.rows * form.cols // (32 * form.warps)
    return entries, entries * dtype.itemsize // 16 if dtype else 0


def dtype_of(geometry):
    return geometry.C.dtype if isinstance(geometry, Dense) else None


def by_guess(n, precision, dtype=None, tensor=False):
    """One exponential for each entry in the guessed pass, and in the one that may have to follow."""
    entries, wide = per_thread(n, precision, dtype)
    if precision is DOUBLE:
        return Must(tensor=tensor)
    # The loop of a thread that has few entries may be unrolled.
    return Must((2 * entries, entries) if entries > 4 else None, wide, tensor=tensor)


def softmin(geometry, precision):
    g, guess = full(0.0, 1, geometry.m), full(0.0, 1, geometry.n)
    return ops.softmin(geometry, g, g, full(1.0, 1), guess=guess, precision=precision)


def softmins():
    for (name, make), (called, precision), n in product(GEOMETRIES.items(), PRECISIONS.items(), (MANY, FEW)):
        geometry = make(n, COLUMNS)
        if precision is SINGLE and dtype_of(geometry) == torch.float64:
            continue  # no one asks for it
        tensor = precision is SINGLE and name == "many coordinates"
        must = by_guess(n, precision, dtype_of(geometry), tensor)
        what = f"softmin, {name}, {called}, {n} rows"
        yield Case(
            what,
            partial(softmin, geometry, precision),
            {"softmin": must},
            ALL if n == MANY and precision is not DOUBLE else (90,),
            n == MANY or precision is SINGLE,
        )


def operations():
    """What goes through the entries of a plan or the costs: in float64, or nearly."""
    for name in ("float32", "distances"):
        given = GEOMETRIES[name](MANY, COLUMNS)
        costs, v = Reduced(given, full(0.0, 1, MANY), full(0.0, 1, COLUMNS)), full(0.0, 1, COLUMNS, 2)
        at = Potentials(costs.row, costs.col, costs.row, costs.col, full(1.0, 1))
        mass = costs.row == 0, costs.col == 0
        single, _ = per_thread(MANY, MIXED)
        calls = {
            "transport_cost": (lambda c=costs, at=at: ops.transport_cost(c, at), {"row_sums": Must()}),
            "plan": (lambda c=costs, at=at: ops.plan(c, at), {"plan": Must()}),
            "plan, single": (lambda c=costs, at=at: ops.plan(c, at, single=True), {"plan": Must((single, single))}),
            "apply_plan": (lambda c=costs, at=at, v=v: ops.apply_plan(c, at, v), {"products": Must()}),
            "select": (lambda c=costs, at=at: ops.select(c, at, at.f, at.g, 9.0), {"count": Must(), "select": Must()}),
            "are_costs": (lambda c=given: ops.are_costs(c), {"bad_costs": Must()}),
            "cost_range": (
                lambda c=given, mass=mass: ops.cost_range(c, *mass),
                {"c_transform": Must(), "cost_range": Must()},
            ),
        }
        for called, (call, kernels) in calls.items():
            yield Case(f"{called}, {name}", call, kernels, quick=name == "float32")


def sweep(geometry, tol, reach=0.0, items=1, window=WINDOW):
    """An iteration, in float32 from a tolerance of 1e-5 on, and with differences in it if `reach` is short."""
    costs = Reduced(geometry, full(0.0, items, geometry.n), full(0.0, items, geometry.m))
    reg, exact = full(1.0, items), full(float("inf"), items)
    start = Potentials(costs.row, costs.col, costs.row, costs.col, reg)
    mixing = Mixing.begin(costs.col, full(reach, items), window)
    return TRITON.sweep(costs, start, Penalties(exact, exact), mixing, full(tol, items), reg, 1)


FORMS = {"single": dict(tol=1e-4), "mixed": dict(tol=1e-4, reach=1e9), "double": dict(tol=1e-9)}


END = dict.fromkeys(("differences", "decide", "combine", "advance"), Must())


def columns(precision):
    """One exponential for each entry of a block that is recomputed."""
    entries = iterations._BLOCK * iterations._AT_ONCE // (32 * iterations._FEW_WARPS)
    return Must((entries, entries) if precision is not DOUBLE else (0, 0))


def sweeps():
    def case(what, name, form, size, kernels, where=(90,), quick=True):
        call = partial(sweep, GEOMETRIES[name](*size), **FORMS[form])
        return Case(f"sweep, {what}, {name}, {form}", call, kernels, where, quick)

    held = 16  # entries of its rows that a thread holds
    for name, form, where in (("float32", "single", ALL), ("float32", "mixed", (90,)), ("float64", "mixed", (80, 90)),
                              ("float64", "double", (90,)), ("distances", "mixed", (90,))):  # fmt: skip
        precision, dtype = PRECISIONS[form], dtype_of(GEOMETRIES[name](1, 1))
        one = (held, held) if precision is not DOUBLE else (0, 0)
        kernels = {
            "rows": Must(one, held * dtype.itemsize // 16 if dtype else 0, ahead=dtype is not None),
            "columns": columns(precision),
            **END,
        }
        yield case("whole rows", name, form, (MANY, COLUMNS), kernels, where)
    # The longest rows that registers hold, aligned or not.
    for name, form, m, where in (
        ("float32", "single", 16_384, ALL),
        ("float32", "single", 10_001, (80, 90, 100)),
        ("float32", "single", 5000, (90,)),
        ("float32", "mixed", 8191, ALL),
        ("float64", "mixed", 8192, (90, 100)),
        ("float64", "double", 4095, (90, 100)),
        ("distances", "single", 8192, (90, 100)),
        ("distances", "mixed", 4096, (90, 100)),
        ("distances", "double", 2048, (90,)),
    ):
        precision, dtype = PRECISIONS[form], dtype_of(GEOMETRIES[name](1, 1))
        held = triton.next_power_of_2(m) // 256
        one = (held, held) if precision is not DOUBLE else (0, 0)
        wide = held * dtype.itemsize // 16 if dtype and m % 4 == 0 else 0
        added = columns(precision) if m % 4 == 0 else Must(None)  # the loop may be unrolled
        kernels = {"rows": Must(one, wide, ahead=wide > 0), "columns": added, **END}
        quick = m in (10_001, 4095, 4096)
        yield case(f"{m} columns", name, form, (512, m), kernels, where, quick)
    for name, form, size, where in (
        ("many coordinates", "single", (MANY, MANY), ALL),
        ("float32", "mixed", (512, 20_000), (90,)),
        ("float64", "double", (512, 20_000), (90,)),
    ):
        precision = PRECISIONS[form]
        dtype, tensor = dtype_of(GEOMETRIES[name](1, 1)), name == "many coordinates"
        rows, cols = (by_guess(n, precision, dtype, tensor) for n in size)
        yield case(
            "tiles",
            name,
            form,
            size,
            {"update_rows": rows, "update_columns": cols, **END},
            where,
        )


def small():
    """Problems of 32 × 32 in one launch, or somewhat less."""
    for dtype, form, size, where in (
        (torch.float32, "single", 32, ALL),
        (torch.float64, "mixed", 32, (80, 90)),
        (torch.float64, "double", 32, (80, 90)),
        (torch.float64, "double", 31, (80, 90)),
    ):
        for window, threads in ((0, 64), (WINDOW, 256)):
            call = partial(sweep, dense(dtype, size, size, 300), items=300, window=window, **FORMS[form])
            held = 32 * 32 // threads  # twice: by rows, and by columns where sums are too light
            must = Must((2 * held, 2 * held)) if form != "double" else Must()
            name = f"sweep, small, {size}, window of {window}, {dtype}, {form}"
            yield Case(name, call, {"small": must}, where, size == 31 or window > 0)


def conjugate_gradients():
    index = torch.arange(4096)
    T, transposed = cg.compressed((index, index, full(0.5, 4096)), (4096, 4096))
    ones = np.ones(4096)
    return cg.conjugate_gradients(Schur(1.0, T, transposed, ones), ones, ones, 1e-6, 1)


CASES = [
    *softmins(),
    *operations(),
    *sweeps(),
    *small(),
    Case("conjugate gradients", conjugate_gradients, dict.fromkeys(("_multiply", "_ahead", "_back", "_step"), Must())),
]


@pytest.mark.parametrize(
    ("case", "capability"),
    [
        pytest.param(case, at, id=f"{case.name}, sm_{at}", marks=() if case.quick and at == QUICK else pytest.mark.slow)
        for case in CASES
        for at in case.capabilities
    ],
)
def test_the_machine_code(case, capability):
    found = compiled(case.call, capability)
    assert set(found) == set(case.kernels)
    for name, must in case.kernels.items():
        code = found[name]
        assert keeps_its_registers(code, capability), (name, code.registers, code.stack, code.spills)
        assert code.threads * code.registers <= 65536, name  # or it cannot be launched
        assert bool(code.count(TENSOR_CORE)) == must.tensor, name
        loop = code.shortest("MUFU.EX2") if code.count("MUFU.EX2") else code
        if EXACT and must.exponentials is not None:
            assert (code.count("MUFU.EX2"), loop.count("MUFU.EX2")) == must.exponentials, name
        assert loop.count(r"(LDG|LDGSTS)\.E\S*\.128") >= must.wide, name
        assert code.count("LDGSTS") or not must.ahead, name


def keeps_its_registers(code, capability):
    """Whether a kernel keeps no registers in memory; with older versions, a few out of the quickest loop."""
    if (EXACT and capability > 80) or code.name in HOT:
        return (code.stack, code.spills) == (0, 0)
    streams = [loop for loop in code.loops if loop.count("LDG")]
    return code.spills <= RARE and not (streams and streams[0].spills)
