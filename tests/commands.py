"""What the tests of the command line share."""

import importlib
import subprocess
import sys

import numpy as np
import ot

MODULE = importlib.import_module("otkit.cli.distances")  # the package has the function under that name


def cost(x, y, p):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1)) ** p


def refused(run, words):
    status, out, err = run
    assert (status, out) == (2, "")
    assert err.startswith("otkit: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert words in err


def process(*arguments, **options):
    command = [sys.executable, "-m", "otkit", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)


def exact(x, y, p, a=None, b=None):
    """The distance by POT's network simplex."""
    a, b = (np.ones(len(z)) if w is None else w for z, w in ((x, a), (y, b)))
    return ot.emd2(a / a.sum(), b / b.sum(), cost(x, y, p)) ** (1 / p)


def on_grid(mass):
    return np.argwhere(mass > 0).astype(float), mass[mass > 0].astype(float)


def check(found, true, rtol=1e-2):
    assert found["lower"] <= true * (1 + 1e-11)
    assert true * (1 - 1e-11) <= found["upper"]
    assert found["lower"] <= found["distance"] <= found["upper"]
    assert found["upper"] - found["lower"] <= rtol * found["upper"]
    assert abs(found["distance"] - true) <= rtol * found["upper"]
