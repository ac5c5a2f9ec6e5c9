"""The table of docs/libraries.md: which kernels run what, for arrays of each library."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist

import otkit

PAGE = Path(otkit.__file__).parent.parent / "docs" / "libraries.md"
BEGIN, END = "<!-- written by tests/spec/test_support.py -->\n", "<!-- end -->"
X, Y = np.random.default_rng(0).random((2, 6, 2))


def gaps(x, y):
    """City-block distances by operations that every library has."""
    gap = x[..., :, None, 0] - y[..., None, :, 0], x[..., :, None, 1] - y[..., None, :, 1]
    return abs(gap[0]) + abs(gap[1])


def backward(result):
    result.value.backward()
    return "yes"


ROWS = {
    "`solve` without `reg`": lambda of: otkit.solve(of(cdist(X, Y))),
    "`solve` with `reg`": lambda of: otkit.solve(of(cdist(X, Y)), reg=0.1),
    "`solve` with `unbalanced`": lambda of: otkit.solve(of(cdist(X, Y)), reg=0.1, unbalanced=1.0),
    "`solve_sample`": lambda of: otkit.solve_sample(of(X), of(Y), reg=0.1),
    '`metric="chebyshev"` and others of SciPy': lambda of: otkit.solve_sample(of(X), of(Y), metric="chebyshev", reg=0.1),
    "a callable `metric`": lambda of: otkit.solve_sample(of(X), of(Y), metric=gaps, reg=0.1),
    "`wasserstein`": lambda of: otkit.wasserstein(of(X), of(Y)).result,
    "`sinkhorn_divergence`": lambda of: otkit.sinkhorn_divergence(of(X), of(Y), reg=0.1).cross,
    "`pairwise`": lambda of: otkit.pairwise([of(X), of(Y)]).distance.dtype.kind == "f" and "yes",
    "`vjp`": lambda of: otkit.vjp(otkit.solve(of(cdist(X, Y)), reg=0.1), value=1.0).reg is not None and "yes",
    "the backward pass of autograd": lambda of: backward(otkit.solve(of(cdist(X, Y)).requires_grad_(), reg=0.1)),
}  # fmt: skip


def libraries():
    """What the columns are of: a function that makes the array from one of NumPy."""
    pandas, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    jnp, strict = pytest.importorskip("jax.numpy"), pytest.importorskip("array_api_strict")
    return {
        "NumPy": lambda v: v,
        "lists": lambda v: v.tolist(),
        "pandas": pandas.DataFrame,
        "masked arrays": lambda v: np.ma.masked_array(v, mask=(v == v.max())),
        "SciPy's sparse": sparse.coo_array,
        "PyTorch, CPU": lambda v: torch.tensor(v),
        "JAX": jnp.asarray,
        "array_api_strict": strict.asarray,
    }


def cell(call, of):
    """The kernels that ran the call, or a dash if it was refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = call(of)
    except (ValueError, TypeError, AttributeError):
        return "–"
    return found if isinstance(found, str) else found.kernel.partition(" ")[0]


def table():
    columns = libraries()
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(cell(call, of) for of in columns.values())] for name, call in ROWS.items()]
    kinds = {name: type(otkit.solve(of(cdist(X, Y)), reg=0.1).plan).__module__ for name, of in columns.items()}
    names = {"numpy": "NumPy", "torch": "PyTorch", "jaxlib": "JAX", "array_api_strict": "array_api_strict"}
    lines.append(["results are arrays of", *(names[kind.partition(".")[0]] for kind in kinds.values())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_the_page_says_what_runs(monkeypatch):
    monkeypatch.delenv("OTKIT_KERNELS", raising=False)
    text, wanted = PAGE.read_text(encoding="utf-8"), table()
    found = re.search(f"{BEGIN}(.*?){END}", text, re.DOTALL)
    assert found is not None
    assert found[1].strip() == wanted.strip(), f"write this into {PAGE.name}:\n{wanted}"
