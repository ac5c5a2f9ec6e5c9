"""The command line, run in a folder with files for it."""

import json

import numpy as np
import pytest
from PIL import Image

from otkit import cli


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
