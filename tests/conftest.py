"""Fixtures shared by all tests."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from otkit import cli

settings.register_profile("otkit", max_examples=40, deadline=None, derandomize=True, print_blob=True)
settings.load_profile("otkit")

HAS_TORCH = find_spec("torch") is not None
# Without PyTorch there is nothing to test in these.
_OF_TORCH = [
    "attention/*",
    "losses/*",
    "autograd/test_gradients.py",
    "autograd/test_torch.py",
    "kernels/triton/*",
    "compiled.py",
]
# kernels/ is on the path of what is imported there: without Triton its folder of that name would be taken for it.
if find_spec("triton") is None:
    sys.modules["triton"] = None
collect_ignore_glob = [] if HAS_TORCH else _OF_TORCH


def _libraries():
    import array_api_strict

    yield pytest.param(array_api_strict, id="array_api_strict")
    if HAS_TORCH:
        import array_api_compat.torch

        yield pytest.param(array_api_compat.torch, id="torch")


@pytest.fixture(params=list(_libraries()))
def xp(request):
    """An array library that is not NumPy."""
    return request.param


@pytest.fixture(params=[pytest.param(np, id="numpy"), *_libraries()])
def any_xp(request):
    """An array library."""
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# The command line, run in a folder with files for it. A conftest.py in cli/, which sorts before this one, would be taken
# for it where doctests are collected.


@pytest.fixture
def otkit_(capsys, tmp_path, monkeypatch):
    """Run the command line in the folder of the test's files: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code
        return status, *capsys.readouterr()

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
