"""Input of every kind: the answer of its float64 copy in C order, or an error of otkit that says what to do."""

import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import sparse
from strategies import first

import otkit
from otkit.arrays import to_numpy

HERE = str(Path(otkit.__file__).parent)
NAN, INF = float("nan"), float("inf")


class Unit(np.ndarray):
    """A subclass of arrays whose numbers have another meaning."""


def unaligned(v):
    memory = np.zeros(v.nbytes + 1, dtype=np.uint8)[1:].view(v.dtype).reshape(v.shape)
    memory[...] = v
    return memory


def read_only(v):
    v = v.copy()
    v.flags.writeable = False
    return v


def strided(v):
    wide = np.full(tuple(2 * k for k in v.shape), NAN)
    wide[tuple(slice(None, None, 2) for _ in v.shape)] = v
    return wide[tuple(slice(None, None, 2) for _ in v.shape)]


def reversed_(v):
    at = tuple(slice(None, None, -1) for _ in v.shape)
    return v[at].copy()[at]


# What makes an object from an array in float64.
NUMPY = {
    "C order": lambda v: v,
    "Fortran order": np.asfortranarray,
    "strided": strided,
    "reversed": reversed_,
    "unaligned": unaligned,
    "read-only": read_only,
    "transposed": lambda v: v.T.copy().T,
    "in a batch": lambda v: v[None],
    "repeated": lambda v: np.broadcast_to(v[..., :1], v.shape),
    **{f"dtype {t}": lambda v, t=t: v.astype(t) for t in ("f4", "f2", ">f8", ">f4", "i8", ">i2", "u1", "i4", "?")},
    "a matrix": lambda v: v.view(np.matrix) if v.ndim == 2 else v,
    "a memory map": lambda v: v.view(np.memmap),
    "nothing masked": np.ma.masked_array,
    "a list": lambda v: v.tolist(),
    "a tuple": lambda v: tuple(map(tuple, v.tolist())) if v.ndim == 2 else tuple(v.tolist()),
    "a list of arrays": list,
}
OTHERS = {
    "long double": lambda v: v.astype(np.longdouble),
    "complex": lambda v: v.astype(complex),
    "objects": lambda v: v.astype(object),
    "words": lambda v: v.astype(str),
    "dates": lambda v: v.astype("i8").astype("M8[s]"),
    "a subclass": lambda v: v.view(Unit),
    "a dictionary": lambda v: dict(enumerate(v.tolist())),
    "a generator": lambda v: (w for w in v),
    "a set": lambda v: set(np.ravel(v).tolist()),
    "a string": lambda v: "costs",
    "a record": lambda v: np.zeros(v.shape, dtype=[("p", "f8")]),
    "ragged": lambda v: [[1.0], [1.0, 2.0]],
    "empty": lambda v: v[:0],
    "a number": lambda v: 1.0,
    "with NaN": lambda v: np.where(v == v.flat[0], NAN, v),
    "with -inf": lambda v: np.where(v == v.flat[0], -INF, v),
    "with inf": lambda v: np.where(v == v.flat[0], INF, v),
    "negative": lambda v: -v,
    "huge": lambda v: v * 5e307,
    "tiny": lambda v: v * 1e-320,
    "another length": lambda v: v[:-1],
    "one axis more": lambda v: v[..., None],
    **{
        f"sparse, {k}": lambda v, k=k: getattr(sparse, f"{k if v.ndim == 2 else 'coo'}_array")(v)
        for k in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")
    },
    "masked": lambda v: np.ma.masked_array(v, mask=v == v.flat[0]),
}
LIBRARIES = {}


def _of_libraries():
    """Forms of the libraries that are installed."""
    try:
        import pandas

        LIBRARIES["pandas"] = lambda v: (pandas.DataFrame if v.ndim == 2 else pandas.Series)(v)
        LIBRARIES["pandas, named"] = lambda v: (
            pandas.DataFrame(v, columns=list("abcdefgh"[: v.shape[-1]])) if v.ndim == 2 else v
        )
    except ImportError:
        pass
    try:
        import torch

        for dtype in ("float64", "float32", "float16", "bfloat16", "int64", "bool"):
            LIBRARIES[f"torch {dtype}"] = lambda v, t=dtype: torch.tensor(v).to(getattr(torch, t))
        LIBRARIES["torch, transposed"] = lambda v: torch.tensor(v.T.copy()).T if v.ndim == 2 else torch.tensor(v)
        LIBRARIES["torch, requiring gradients"] = lambda v: torch.tensor(v, requires_grad=True)
        LIBRARIES["torch, negated"] = lambda v: (torch.tensor(v) * -1j).conj().imag
        OTHERS["torch, sparse"] = lambda v: torch.tensor(v).to_sparse()
        OTHERS["torch, complex"] = lambda v: torch.tensor(v).to(torch.complex128)
        OTHERS["torch, of 8 bits"] = lambda v: torch.tensor(v).to(torch.float8_e4m3fn)
        OTHERS["torch, without data"] = lambda v: torch.tensor(v).to("meta")
        OTHERS["a list of tensors"] = lambda v: [torch.tensor(w, requires_grad=True) for w in v]
    except ImportError:
        pass
    try:
        import jax.numpy as jnp

        for dtype in ("float32", "float16", "bfloat16", "int32", "bool"):
            LIBRARIES[f"JAX {dtype}"] = lambda v, t=dtype: jnp.asarray(v, dtype=t)
        OTHERS["JAX, complex"] = lambda v: jnp.asarray(v, dtype="complex64")
    except ImportError:
        pass
    import array_api_strict

    LIBRARIES["array_api_strict"] = array_api_strict.asarray


_of_libraries()
GOOD = {**NUMPY, **LIBRARIES}
ALL = {**GOOD, **OTHERS}


def plain(x, of_costs):
    """An independent reading of what was passed, in float64."""
    if x is None:
        return None
    if sparse.issparse(x):
        x = x.tocoo()
        dense = np.full(x.shape, INF)
        dense[x.coords] = x.data
        return dense
    if isinstance(x, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(x), INF, x.data.astype(float)) if of_costs else x.data.astype(float)
    if hasattr(x, "detach"):
        x = x.detach().resolve_neg().double().numpy()
    return np.ascontiguousarray(np.asarray(x).astype(float))


CALLS = {
    "solve": (lambda C, a, b: otkit.solve(C, a, b).value, True),
    "solve, reg": (lambda C, a, b: otkit.solve(C, a, b, reg=0.5, tol=1e-10).value, True),
    "plan": (lambda C, a, b: otkit.solve(C, a, b, reg=0.5, tol=1e-10).plan, True),
    "unbalanced": (lambda C, a, b: otkit.solve(C, a, b, reg=0.5, unbalanced=1.0, tol=1e-10).value, True),
    "solve_sample": (lambda x, y, a, b: otkit.solve_sample(x, y, a, b, reg=0.5, tol=1e-10).value, False),
    "by a name": (lambda x, y, a, b: otkit.solve_sample(x, y, a, b, metric="chebyshev").value, False),
    "wasserstein": (lambda x, y, a, b: otkit.wasserstein(x, y, a, b).distance, False),
    "divergence": (lambda x, y, a, b: otkit.sinkhorn_divergence(x, y, a, b, reg=0.5).value, False),
    "pairwise": (lambda x, y, a, b: otkit.pairwise([(x, a), (y, b)], p=1).distance, False),
}


def numbers(shape):
    """Small whole numbers, which every dtype of the test holds."""
    size = int(np.prod(shape))
    return st.lists(st.integers(0, 3), min_size=size, max_size=size).map(
        lambda v: np.array(v, dtype=float).reshape(shape)
    )


@st.composite
def calls(draw, forms):
    """The name of a call, and its arguments: costs or points, and weights or None; all of some form."""
    name = draw(st.sampled_from(sorted(CALLS)))
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    shapes = [(n, m)] if CALLS[name][1] else [(n, 2), (m, 2)]
    weights = [draw(st.booleans()) for _ in range(2)]
    form = draw(st.sampled_from(sorted(forms)))
    given_ = []
    for shape in [*shapes, (n,), (m,)]:
        v = draw(numbers(shape))
        if len(shape) == 1:
            v = np.full(shape, 1.0) if n == m else np.eye(1, shape[0])[0]
            if not weights[len(given_) - len(shapes)]:
                given_.append(None)
                continue
        # All arguments have one form, or one of them has another.
        other = draw(st.sampled_from(sorted(forms))) if draw(st.integers(0, 3)) == 0 else form
        given_.append(forms[other](v))
    return name, given_


def answer(name, arguments):
    """The answer, or the error if it is one of otkit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", otkit.ConvergenceWarning)
            return to_numpy(CALLS[name][0](*arguments))
    except (ValueError, TypeError) as error:
        refused = error
    frame = traceback.extract_tb(refused.__traceback__)[-1]
    assert frame.filename.startswith(HERE), f"{frame.filename}: {refused!r}"
    assert "raise" in frame.line, f"{frame.line}: {refused!r}"
    return refused


def compare(name, arguments):
    """The answer, compared with that of the copies if it is none of otkit's errors."""
    found = answer(name, arguments)
    if isinstance(found, Exception):
        return found
    of_costs = CALLS[name][1]
    copies = [plain(v, of_costs and k == 0) for k, v in enumerate(arguments)]
    wanted = answer(name, copies)
    assert not isinstance(wanted, Exception), f"the copies were refused: {wanted}"
    low = any(str(getattr(v, "dtype", "")).endswith(("float32", "float16")) for v in arguments)
    least = any("bfloat16" in str(getattr(v, "dtype", "")) for v in arguments)
    tol = (
        1e-2
        if least
        else 2e-3
        if low and "16" in "".join(str(getattr(v, "dtype", "")) for v in arguments)
        else 1e-5
        if low
        else 1e-7
    )
    assert_allclose(found.astype(float), wanted, rtol=tol, atol=tol)
    return None


@pytest.mark.parametrize("seed", first(1, range(4)))
def test_any_input(seed):
    @settings(max_examples=250, suppress_health_check=list(HealthCheck))
    @given(calls(ALL))
    def each(call):
        compare(*call)

    from hypothesis import seed as seeded

    seeded(seed)(each)()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("form", GOOD)
def test_input_that_has_a_meaning_is_read(form, name, rng):
    n = 4
    shapes = [(n, n)] if CALLS[name][1] else [(n, 2), (n, 2)]
    arguments = [GOOD[form](rng.integers(0, 4, shape).astype(float)) for shape in shapes]
    weights = [GOOD[form](np.full(n, 1.0)) for _ in range(2)]
    refused = compare(name, [*arguments, *weights])
    without_gradient = form == "torch, requiring gradients" and name in ("by a name", "pairwise")
    assert (refused is not None) == (without_gradient or (form == "in a batch" and name == "pairwise")), refused


@pytest.mark.parametrize("form", ["a list", "pandas", "a tuple"])
@pytest.mark.parametrize(
    "library", [name for name in ("torch float64", "JAX float32", "array_api_strict") if name in LIBRARIES]
)
def test_lists_beside_arrays_join_their_library(form, library, rng):
    if form not in ALL:
        pytest.skip("needs pandas")
    C, a, b = rng.random((4, 3)), np.full(4, 0.25), np.array([0.5, 0.25, 0.25])
    given_ = LIBRARIES[library](C)
    found = otkit.solve(given_, ALL[form](a), ALL[form](b))
    assert type(found.plan) is type(given_)
    assert_allclose(to_numpy(found.plan), otkit.solve(C, a, b).plan, atol=1e-6)
    assert_allclose(to_numpy(found.apply([1.0, 2.0, 3.0])), otkit.solve(C, a, b).apply([1.0, 2.0, 3.0]), atol=1e-6)


def test_masks_forbid_arcs_and_are_refused_elsewhere(rng):
    C = np.ma.masked_array(rng.random((4, 4)), mask=rng.random((4, 4)) < 0.3)
    C[range(4), range(4)] = 0.5
    assert_allclose(otkit.solve(C).plan, otkit.solve(C.filled(INF)).plan)
    whole = np.ma.masked_array(np.arange(16).reshape(4, 4), mask=np.eye(4))
    assert_allclose(otkit.solve(whole).value, otkit.solve(np.where(np.eye(4), INF, np.arange(16).reshape(4, 4))).value)
    w = np.ma.masked_array([0.25] * 4, mask=[True, False, False, False])
    with pytest.raises(ValueError, match=r"a must have no masked entries, got 1; drop those points, or pass a\.filled"):
        otkit.solve(np.ones((4, 4)), w)
    assert otkit.solve(np.ones((4, 4)), w.filled(0.25)).converged


@pytest.mark.parametrize("threshold", ["over", "under", "all"])
def test_points_and_matrices_under_other_settings_of_numpy(threshold, rng):
    with np.errstate(**{threshold: "raise"}):
        otkit.solve(rng.random((6, 5)), reg=0.01).plan.sum()
        otkit.solve_sample(rng.random((6, 2)), rng.random((5, 2)), metric="canberra").plan.sum()
