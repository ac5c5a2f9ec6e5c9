"""The elementary functions of the compiled kernels against those of NumPy."""

import ast
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numba
import numpy as np
import pytest
from llvmlite import binding
from numba.core.compiler import run_frontend
from numba.core.inline_closurecall import _created_inlined_var_name

from otkit.kernels.numba import compiler, jit

# Compiled as kernels are, but not kept on disk: a kept one would not see a change of the functions it calls.
_compiled = numba.njit(nogil=True, error_model="numpy", fastmath=jit._FAST)


@_compiled
def _exp(x, out):
    for k in range(x.size):
        out[k] = jit.exp(x[k])


@_compiled
def _exp_single(x, out):
    for k in range(x.size):
        out[k] = jit.exp_single(x[k])


@_compiled
def _log(x, out):
    for k in range(x.size):
        out[k] = jit.log(x[k])


def exp(x):
    x = np.atleast_1d(np.asarray(x, dtype=float))
    out = np.empty_like(x)
    _exp(x, out)
    return out


def log(x):
    x = np.atleast_1d(np.asarray(x, dtype=float))
    out = np.empty_like(x)
    _log(x, out)
    return out


def test_exp_is_that_of_numpy_over_its_range(rng):
    x = np.concatenate(
        [np.linspace(-708, 700, 200_001), 1e-3 * rng.standard_normal(10_000), rng.uniform(-1, 1, 10_000)]
    )
    half_steps = (np.arange(-1021, 1010) + 0.5) * np.log(2)  # where the power of two changes
    x = np.concatenate([x, half_steps, np.nextafter(half_steps, np.inf), np.nextafter(half_steps, -np.inf)])
    np.testing.assert_allclose(exp(x), np.exp(x.astype(np.longdouble)).astype(float), rtol=1e-15, atol=0)


def test_exp_is_exact_where_it_has_to_be():
    np.testing.assert_array_equal(exp([0.0, -0.0, -708.1, -1e3, -1e300, -np.inf]), [1, 1, 0, 0, 0, 0])
    assert exp(-708.0)[0] > 0
    top = exp([700.0, 700.1, 710.0, 1e300, np.inf])
    assert (top == top[0]).all()
    assert np.isfinite(top[0])


def test_exp_rises_up_to_rounding():
    x = np.sort(np.concatenate([np.linspace(-720, 720, 100_001), np.linspace(-1e-9, 1e-9, 1001)]))
    y = exp(x)
    assert (np.diff(y) >= -2e-15 * y[1:]).all()  # each of two neighbours is off by 1e-15


def test_log_is_that_of_numpy_over_its_range(rng):
    x = np.concatenate([10.0 ** np.linspace(-307.6, 308.2, 200_001), 2.0 ** np.arange(-1022, 1024)])
    around = np.exp2(np.arange(-1021, 1023) + 0.5)  # where the exponent changes
    x = np.concatenate([x, around, np.nextafter(around, np.inf), np.nextafter(around, 0)])
    x = np.concatenate(
        [x, rng.uniform(0.5, 2, 20_000), 1 + 1e-6 * rng.standard_normal(10_000), 1 + 2.0 ** -np.arange(1, 53)]
    )
    np.testing.assert_allclose(log(x), np.log(x.astype(np.longdouble)).astype(float), rtol=1e-15, atol=0)


def test_the_log_of_one_is_zero():
    assert log(1.0)[0] == 0


@pytest.mark.parametrize("x", [-700.0, -30.0, -1e-8, 1e-8, 1.0, 699.0])
def test_log_undoes_exp(x):
    np.testing.assert_allclose(log(exp(x)), x, rtol=1e-15, atol=2e-15)


def test_exp_in_single_precision_is_that_of_numpy_in_double():
    x = np.linspace(-86.9, 86.9, 100_003, dtype=np.float32)
    out = np.empty_like(x)
    _exp_single(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(float)), rtol=3e-7)
    x = np.array([-np.inf, -1e30, -87.5, 0.0, 88.0, np.inf], dtype=np.float32)
    out = np.empty_like(x)
    _exp_single(x, out)
    assert list(out[:4]) == [0, 0, 0, 1]
    assert np.all(out[4:] == out[5])
    assert 6e37 < out[5] < np.inf


@pytest.mark.skipif(not binding.get_host_cpu_features().get("avx512f"), reason="needs a processor with AVX-512")
def test_loops_take_the_widest_vectors_where_they_ask_for_them():
    @_compiled
    def exponentials(x, out):
        jit.wide()
        for k in range(x.size):
            out[k] = jit.exp(x[k])

    x, out = np.linspace(-9, 9, 1003), np.empty(1003)
    exponentials(x, out)
    np.testing.assert_allclose(out, np.exp(x), rtol=1e-13)
    assert any("zmm" in code for code in exponentials.inspect_asm().values())


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


def test_a_kernel_is_compiled_once_whether_arrays_count_as_writable_or_not():
    @compiler._once
    @numba.njit
    def total(pair, x):
        return pair.first[0] + pair.second[0] + x[0]

    fixed = np.ones(3)
    fixed.flags.writeable = False
    for first, second, x in product((fixed, np.ones(3)), repeat=3):
        assert total(Pair(first, second), x) == 3
    assert len(total.signatures) == 1
    assert total(Pair(fixed, fixed), np.ones(3, dtype=np.float32)) == 3
    assert len(total.signatures) == 2


def test_a_kernel_is_compiled_once_for_constants_and_variables():
    @compiler._once
    @numba.njit
    def difference(x, k, sign):
        return x[k] if sign else -x[k]

    @numba.njit
    def both(x, k):
        return difference(x, 1, True) + difference(x, k, k > 5)

    assert both(np.arange(4.0), 3) == -2
    assert difference(np.arange(4.0), 2, True) == 2
    assert len(difference.signatures) == 1


def test_threads_that_call_at_once_leave_one_entry(monkeypatch):
    @compiler._once
    @numba.njit
    def total(x):
        return x.sum()

    fixed = np.ones(3)
    fixed.flags.writeable = False
    for _ in range(2):  # as by two threads, which both find no entry
        total.compile((numba.typeof(fixed),))
    monkeypatch.setattr(total, "compile", None)
    assert total(fixed) == 3


def test_the_order_of_what_is_compiled_does_not_depend_on_hashes():
    def chosen(x, y, z):
        return max(x, y, z if z > 0 else 1.0)

    code = run_frontend(chosen)
    for block in code.blocks.values():
        block.body[:] = [*block.body[:-1][::-1], block.body[-1]]  # as a set may give them
    compiler._Ordered().run_pass(SimpleNamespace(func_ir=code))
    names = [[line.target.name for line in block.body if compiler._is_on_stack(line)] for block in code.blocks.values()]
    assert max(map(len, names)) > 2
    assert all(each == sorted(each) for each in names)
    assert compiler._ON_STACK.search(_created_inlined_var_name("chosen$8", "$phi40.2"))
    kernels = jit.dot, jit.exp, jit.difference
    assert all(kernel.compiled._compiler.pipeline_class is compiler._Repeatable for kernel in kernels)


def kernels_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        decorators = {*map(ast.unparse, node.decorator_list)} if isinstance(node, ast.FunctionDef) else set()
        if decorators & {"jit", "exact", "ordered", "inlined"}:
            yield node


def test_no_kernel_assigns_an_array_to_a_slice():
    """It costs more than three seconds of compilation: `copy` does not."""
    found, kernels = [], 0
    for path in sorted(Path(jit.__file__).parent.glob("*.py")):
        for kernel in kernels_of(path):
            kernels += 1
            for line in (node for node in ast.walk(kernel) if isinstance(node, ast.Assign)):
                slices = any(isinstance(node, ast.Slice) for target in line.targets for node in ast.walk(target))
                if slices and not isinstance(line.value, ast.Constant) and ast.unparse(line.value) != "np.inf":
                    found.append((path.name, line.lineno))
    assert kernels > 100
    assert found == []
