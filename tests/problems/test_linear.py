"""Everything that is refused, with the words that say what to do."""

import array_api_strict as strict
import numpy as np
import pytest
from checks import torch
from scipy.stats import wasserstein_distance

import otkit

C = np.arange(6.0).reshape(2, 3)
X, Y = np.zeros((2, 2)), np.ones((3, 2))
NAN, INF = np.nan, np.inf

REFUSED = {
    "nan cost": (lambda: otkit.solve([[0.0, NAN]], reg=1), "costs must be numbers or \\+inf .* pass inf to forbid"),
    "-inf cost": (lambda: otkit.solve([[0.0, -INF]], reg=1), "got NaN or -inf"),
    "callable nan": (lambda: otkit.solve_sample(X, Y, metric=lambda x, y: NAN * (x @ y.mT), reg=1), "got NaN"),
    "forbidden row": (lambda: otkit.solve([[INF, INF], [0, 1]], reg=1), "row 0 .* set its weight to 0, allow an arc, or let it stay empty by unbalanced="),
    "forbidden column": (lambda: otkit.solve([[0, INF], [0, INF]], reg=1), "column 1 .* only infinite costs"),
    "no arc to mass": (lambda: otkit.solve([[0, INF], [0, 1]], b=[0, 1], reg=1), "row 0"),
    "negative weight": (lambda: otkit.solve(C, [1.5, -0.5], reg=1), "a must be non-negative, got .* -0.5; clip"),
    "nan weight": (lambda: otkit.solve(C, None, [0.5, NAN, 0.5], reg=1), "b must be finite, got NaN"),
    "inf weight": (lambda: otkit.solve(C, [INF, 1], reg=1), "a must be finite"),
    "no mass": (lambda: otkit.solve(C, [0, 0], reg=1), "a must have positive total mass, got a total of 0"),
    "overflowing mass": (lambda: otkit.solve(C, [1.7e308, 1.7e308], reg=1), "sum overflows; divide"),
    "unequal mass": (lambda: otkit.solve(C, [1, 1], [1, 1, 1.5], reg=1), "same total mass, got 2 and 3.5 .*unbalanced="),
    "short weights": (lambda: otkit.solve(C, [1, 1, 1], reg=1), "a must have 2 weights, .* got shape \\(3,\\)"),
    "scalar weights": (lambda: otkit.solve(C, 1.0, reg=1), "a must have shape"),
    "vector cost": (lambda: otkit.solve([1.0, 2.0], reg=1), "C must have shape \\(..., n, m\\), got shape \\(2,\\)"),
    "empty cost": (lambda: otkit.solve(np.zeros((0, 3)), reg=1), "C must not be empty, got shape \\(0, 3\\)"),
    "ragged cost": (lambda: otkit.solve([[1.0], [1.0, 2.0]], reg=1), "C must be an array of numbers, got ragged rows"),
    "reg 0": (lambda: otkit.solve(C, reg=0), "reg must be positive, got 0; for the unregularised problem pass reg=None"),
    "reg -1": (lambda: otkit.solve(C, reg=-1), "reg must be positive and finite, in units of the cost, got -1"),
    "reg nan": (lambda: otkit.solve(C, reg=NAN), "reg must be positive and finite"),
    "reg inf": (lambda: otkit.solve(C, reg=INF), "reg must be positive and finite"),
    "reg shape": (lambda: otkit.solve(np.zeros((2, 2, 3)), reg=[1, 1, 1]), "axes .batch. must broadcast .*reg \\(3,\\)"),
    "batch shape": (lambda: otkit.solve(np.zeros((2, 2, 3)), np.ones((3, 2)), reg=1), "costs \\(2,\\), a \\(3,\\)"),
    "batch of points": (lambda: otkit.solve_sample(np.zeros((2, 2, 2)), np.ones((3, 3, 2)), reg=1), "x \\(2,\\), y \\(3,\\)"),
    "overflowing range": (lambda: otkit.solve([[1.7e308, -1.7e308]], reg=1), "range overflows; divide the data"),
    "overflowing points": (lambda: otkit.solve_sample(1e200 * Y, X, reg=1), "range overflows"),
    "overflow on a line": (lambda: otkit.solve_sample([[1e200]], [[0.0]]), "range overflows"),
    "nan point": (lambda: otkit.solve_sample([[NAN, 0.0]], Y, reg=1), "x must be finite, got NaN or inf"),
    "1-D points without reg": (lambda: otkit.solve_sample([1.0, 2.0], Y), "for points on a line pass x\\[:, None\\]"),
    "no points": (lambda: otkit.solve_sample(1.0, Y), r"x must have shape \(\.\.\., n, d\), got shape \(\)"),
    "1-D points": (lambda: otkit.solve_sample([1.0, 2.0], Y, reg=1), "for points on a line pass x\\[:, None\\]"),
    "dimensions": (lambda: otkit.solve_sample(X, np.ones((3, 4)), reg=1), "same dimension, got 2 and 4"),
    "cosine of zero": (lambda: otkit.solve_sample(X, Y, metric="cosine", reg=1), "zero vector in x"),
    "metric": (lambda: otkit.solve_sample(X, Y, metric="manhattan", reg=1), "metric must be one of"),
    "overflowing masses": (
        lambda: otkit.solve(C, [1e200, 1], [1e200, 0, 1], reg=1, unbalanced=1),
        "product of the masses of a and b must be finite .* got 1e.200 and 1e.200; divide both",
    ),
    "mixed devices": (
        lambda: otkit.solve(strict.zeros((2, 3)), strict.ones(2, device=strict.Device("device1")), reg=1),
        "one device, got C on .*CPU.*, a on .*device1",
    ),
    "no data": (lambda: otkit.wasserstein(torch.zeros((2, 1), device="meta"), Y), "x must hold numbers, got a tensor on the meta"),
    "method": (lambda: otkit.solve(C, reg=1, method="simplex"), "method must be 'auto', 'sns'"),
    "method type": (lambda: otkit.solve(C, reg=1, method=3), "a name or a solver such as otkit.Sinkhorn"),
    "sinkhorn alone": (lambda: otkit.solve(C, method="sinkhorn"), "needs a reg"),
    "annealing with reg": (lambda: otkit.solve(C, reg=1, method="annealing"), "drop reg= or method="),
    "rtol with reg": (lambda: otkit.solve(C, reg=1, rtol=0.1), "rtol does not apply to method 'sns'; tol="),
    "tol alone": (lambda: otkit.solve(C, tol=0.1), "tol does not apply to method 'exact'; rtol="),
    "max_iter on a line": (lambda: otkit.solve_sample([[0.0]], [[1.0]], max_iter=3), "takes no iterations"),
    "tol 0": (lambda: otkit.solve(C, reg=1, tol=0), "tol must be a positive number, got 0"),
    "rtol 2": (lambda: otkit.solve(C, rtol=2), "rtol must be a positive number and below 1, got 2"),
    "max_iter -1": (lambda: otkit.solve(C, reg=1, max_iter=-1), "max_iter must be a positive"),
    "init": (lambda: otkit.solve(C, reg=1, init=[0, 1, 2]), "init must be a tuple \\(f, g\\) or a Result, got list"),
    "init shape": (lambda: otkit.solve(C, reg=1, init=(np.zeros(3), np.zeros(3))), "init f must have shape \\(..., 2\\)"),
    "init nan": (lambda: otkit.solve(C, reg=1, init=(np.zeros(2), np.full(3, NAN))), "init g must be finite"),
    "p below 1": (lambda: otkit.wasserstein(X, Y, p=0.5), "p must be from 1 to 1024, or inf, got 0.5"),
    "p above 1024": (lambda: otkit.wasserstein(X, Y, p=1025), "p must be from 1 to 1024, or inf, got 1025"),
    "p inf of pairs": (lambda: otkit.pairwise([X, Y], p=INF), "for p=inf call otkit.wasserstein for each pair"),
    "squared metric": (lambda: otkit.wasserstein(X, Y, metric="sqeuclidean"), "use metric='euclidean' and p="),
}  # fmt: skip

WRONG_TYPE = {
    "complex": (lambda: otkit.solve(C + 1j, reg=1), "C must hold real numbers, got dtype complex128"),
    "complex torch": (lambda: otkit.solve(torch.zeros(2, 2, dtype=torch.complex64), reg=1), "real part"),
    "strings": (lambda: otkit.solve([["a", "b"]], reg=1), "C must hold real numbers"),
    "objects": (lambda: otkit.solve([[None, 1]], reg=1), "C must hold real numbers, got dtype object"),
    "long double": (lambda: otkit.solve(C.astype(np.longdouble), reg=1), "float64 or narrower"),
    "mixed libraries": (lambda: otkit.solve(C, torch.ones(2), reg=1), "one library, got C from numpy, a from torch"),
    "mixed points": (
        lambda: otkit.solve_sample(X, torch.ones(3, 2), reg=1),
        "one library, got x from numpy, y from torch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused_with_advice(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", WRONG_TYPE)
def test_bad_types_are_refused_with_advice(name):
    call, words = WRONG_TYPE[name]
    with pytest.raises(TypeError, match=words):
        call()


def test_gradients_are_not_refused_where_none_are_recorded():
    cost = torch.rand(2, 3, requires_grad=True)
    with torch.no_grad():
        assert otkit.solve(cost, reg=1.0).converged
    assert torch.is_grad_enabled()


def test_masses_that_differ_by_rounding_are_rescaled_and_recorded():
    a = np.array([0.5, 0.5 + 1e-10])
    result = otkit.solve(C, a, [0.2, 0.3, 0.5], reg=1.0)
    assert result.rescaled == pytest.approx(1e-10, rel=1e-4)
    assert otkit.solve(C, reg=1.0).rescaled == 0
    w = np.array([0.5, 0.5001], dtype=np.float32)
    assert otkit.solve(C.astype(np.float32), w, np.float32([0.2, 0.3, 0.5]), reg=1.0).converged
    with pytest.raises(ValueError, match="same total mass"):
        otkit.solve(C, w.astype(float), [0.2, 0.3, 0.5], reg=1.0)


def test_the_callers_arrays_are_neither_copied_nor_changed(rng):
    cost, a = rng.random((20, 30)), rng.random(20)
    before = cost.copy(), a.copy()
    result = otkit.solve(cost, a / a.sum(), reg=0.1)
    assert result.problem.asked.C is cost
    assert np.shares_memory(result.problem.geometry.C, cost)
    assert (cost == before[0]).all()
    assert (a == before[1]).all()
    frozen = cost.copy()
    frozen.flags.writeable = False
    assert otkit.solve(frozen, reg=0.1).converged


def softmax(rng, n, dtype=np.float32):
    z = rng.standard_normal(n).astype(dtype)
    w = np.exp(z - z.max())
    return w / w.sum()


@pytest.mark.parametrize("as_given", [
    lambda w: w,
    lambda w: w.astype(np.float64),
    lambda w: w.tolist(),
    lambda w: torch.tensor(w),
], ids=["float32", "float64 of float32", "list", "tensor"])  # fmt: skip
def test_weights_of_single_precision_have_its_allowance(as_given, rng):
    refused = 0
    for _ in range(200):
        n, m = rng.integers(2, 40, 2)
        x, y = rng.random((n, 1)), rng.random((m, 1))
        a, b = softmax(rng, n), softmax(rng, m)
        wanted = wasserstein_distance(x[:, 0], y[:, 0], a.astype(float), b.astype(float))  # divides by the totals
        given = as_given(a), as_given(b)
        points = (torch.tensor(x), torch.tensor(y)) if torch.is_tensor(given[0]) else (x, y)
        result = otkit.solve_sample(*points, *given, metric="euclidean")
        totals = a.astype(float).sum(), b.astype(float).sum()
        assert float(result.value) / np.mean(totals) == pytest.approx(wanted, rel=1e-12)
        assert result.rescaled == pytest.approx(abs(totals[0] - totals[1]) / np.mean(totals), rel=1e-6)
        refused += result.rescaled > 1e-8
    assert refused > 100  # by the allowance of float64


def test_one_narrow_side_is_enough(rng):
    x = rng.random((9, 2))
    for a, b in ((softmax(rng, 9), None), (None, softmax(rng, 9)), (softmax(rng, 9), rng.dirichlet(np.ones(9)))):
        assert otkit.solve_sample(x, x + 1, a, b, reg=0.1).rescaled > 1e-9
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.softmax(torch.tensor(rng.standard_normal(9)), 0).to(dtype) for _ in range(2))
        assert 1e-6 < otkit.solve_sample(torch.tensor(x), torch.tensor(x + 1), a, b, reg=0.1).rescaled < 1e-2


@pytest.mark.parametrize(
    "weights",
    [
        ([0.5, 0.5], [0.25, 0.25, 0.5001]),  # written by hand
        ([5000.0, 3001.0], [5000.0, 3000.0, 2.0]),  # counts
        ([5000, 3001], [5000, 3000, 2]),
        (np.float32([0.5, 0.5]), np.float32([0.5, 0.25, 0.2506])),  # above what float32 allows
    ],
)
def test_other_differences_are_still_refused(weights):
    with pytest.raises(ValueError, match="same total mass"):
        otkit.solve(C, *weights)
