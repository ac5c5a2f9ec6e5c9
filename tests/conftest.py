"""Fixtures shared by all tests."""

import gc
import json
import sys
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from otkit import cli
from otkit.cli.distances import COMPILING

# A machine with a GPU may have few packages: the tests of kernels/triton need neither of these two.
HAS_HYPOTHESIS, HAS_STRICT = (find_spec(name) is not None for name in ("hypothesis", "array_api_strict"))
if HAS_HYPOTHESIS:
    from hypothesis import settings

    settings.register_profile("otkit", max_examples=40, deadline=None, derandomize=True, print_blob=True)
    settings.load_profile("otkit")

_GOLDEN = (5**0.5 - 1) / 2

HAS_TORCH, HAS_JAX = (find_spec(name) is not None for name in ("torch", "jax"))
# Without PyTorch there is nothing to test in these.
_OF_TORCH = [
    "attention/*",
    "losses/*",
    "autograd/test_gradients.py",
    "autograd/test_torch.py",
    "kernels/triton/*",
]
# kernels/ is on the path of what is imported there: without Triton its folder of that name would be taken for it.
if find_spec("triton") is None:
    sys.modules["triton"] = None
collect_ignore_glob = [] if HAS_TORCH else _OF_TORCH


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a `sampled` test, about one in so many combinations is quick, and the others are slow.

    Multiples of the golden ratio spread them over the values of all parameters.
    """
    count = Counter()
    for item in items:
        mark, of = item.get_closest_marker("sampled"), item.nodeid.partition("[")[0]
        if mark is not None and count[of] * _GOLDEN % 1 >= 1 / mark.args[0]:
            item.add_marker(pytest.mark.slow)
        count[of] += 1


def pytest_collection_finish():
    """What is imported by now stays: the collector, which the tests of leaks call, need not read it each time."""
    gc.collect()
    gc.freeze()


def _libraries():
    """Libraries whose arrays may stay where they are."""
    if HAS_STRICT:
        import array_api_strict

        yield pytest.param(array_api_strict, id="array_api_strict")
    if HAS_TORCH:
        import array_api_compat.torch

        yield pytest.param(array_api_compat.torch, id="torch")


def _of_jax():
    """JAX, whose arrays are moved to the host."""
    if HAS_JAX:
        import jax.numpy

        yield pytest.param(jax.numpy, id="jax")


def _in_double(library):
    """The library, for the length of a test with its 64-bit numbers if it is JAX."""
    if not library.__name__.startswith("jax"):
        yield library
        return
    with sys.modules["jax"].enable_x64(True):
        yield library


@pytest.fixture(params=[*_libraries(), *_of_jax()])
def xp(request):
    """An array library that is not NumPy."""
    yield from _in_double(request.param)


@pytest.fixture(params=[pytest.param(np, id="numpy"), *_libraries(), *_of_jax()])
def any_xp(request):
    """An array library."""
    yield from _in_double(request.param)


@pytest.fixture(params=[pytest.param(np, id="numpy"), *_libraries()])
def inner_xp(request):
    """A library in which operations run."""
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# The command line, run in a folder with files for it. A conftest.py in cli/, which sorts before this one, would be taken
# for it where doctests are collected.


@pytest.fixture
def otkit_(capsys, tmp_path, monkeypatch):
    """Run the command line in the folder of the test's files: exit status, stdout, stderr.

    What is said of compilation, which the first test to need a function waits for, is left out unless asked for.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments, compiling=False):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code
        out, err = capsys.readouterr()
        return status, out, err.removeprefix("" if compiling else f"{COMPILING}\n")

    return run


@pytest.fixture
def answer(otkit_):
    """The object that ``--json`` prints, of a run that must be certified."""

    def run(*arguments):
        status, out, err = otkit_(*arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def files(tmp_path, rng):
    """One file of each kind."""
    for name, n in (("a", 20), ("b", 25), ("c", 9)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((n, 2)))
    np.save(tmp_path / "solid.npy", rng.random((9, 3)))
    np.save(tmp_path / "line.npy", rng.random((9, 1)))
    np.save(tmp_path / "masses.npy", rng.random(12))
    np.savetxt(tmp_path / "table.csv", rng.random((9, 3)), delimiter=",", header="x,y,w", comments="")
    for name, shape in (("i", (8, 9)), ("j", (10, 7))):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path
