"""What the command line prints, and its exit status."""

import importlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from commands import check, exact, process, refused
from numpy.testing import assert_allclose
from PIL import Image

import otkit


def test_text(otkit_, files):
    status, out, err = otkit_("w2", "a.npy", "b.npy")
    found = re.fullmatch(r"W2 = (\S+) +in \[(\S+), (\S+)\]\n20 × 25 points, exact, (.+), \d+\.\d\d s\n", out)
    assert found, out
    distance, lower, upper = map(float, found.groups()[:3])
    check(dict(distance=distance, lower=lower, upper=upper), exact(np.load("a.npy"), np.load("b.npy"), 2), 1e-8)
    assert (status, err) == (0, "")


@pytest.mark.parametrize("scale", [1.0, 1.7, 1e-7, 3e9])
def test_the_printed_interval_contains_the_distance_at_any_rtol(otkit_, files, scale):
    x, y = (scale * np.load(files / name) for name in ("a.npy", "b.npy"))
    np.save(files / "x.npy", x)
    np.save(files / "y.npy", y)
    _, out, _ = otkit_("w1", "x.npy", "y.npy", "--rtol", 1e-8)
    lower, upper = map(float, re.search(r"\[(\S+), (\S+)\]", out).groups())
    assert lower * (1 - 1e-11) <= exact(x, y, 1) <= upper * (1 + 1e-11)


@pytest.mark.parametrize("rtol", [0.3, 1e-2, 1e-5, 1e-12])
def test_the_printed_interval_contains_that_of_json(otkit_, answer, files, rtol):
    _, out, _ = otkit_("w1", "a.npy", "b.npy", "--rtol", rtol)
    lower, upper = map(float, re.search(r"\[(\S+), (\S+)\]", out).groups())
    found = answer("w1", "a.npy", "b.npy", "--rtol", rtol)
    assert lower <= found["lower"]
    assert found["upper"] <= upper
    assert upper - lower <= 1.1 * (found["upper"] - found["lower"]) + 1e-7 * upper


@pytest.mark.parametrize(("p", "scale"), [(1, 1e-100), (2, 1e-100), (1, 1e-300), (2, 1e-160), (2, 1e200), (1, 1e306)])
def test_a_distance_that_is_small_or_large_is_right(otkit_, tmp_path, p, scale):
    np.save(tmp_path / "x.npy", np.array([[0.0, 0.0]]))
    np.save(tmp_path / "y.npy", scale * np.array([[3.0, 4.0]]))
    run = otkit_(f"w{p}", "x.npy", "y.npy", "--json")
    assert run[0] == 0
    assert_allclose([json.loads(run[1])[key] for key in ("lower", "upper")], 5 * scale, rtol=1e-11)


@pytest.fixture
def golden(tmp_path):
    """Files of clouds with a fill value in both, and of clouds in a square."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)) + 1
    for name, v in (("x.npy", x), ("y.npy", y)):
        np.save(tmp_path / name, np.vstack([v, [[1e8, 1e8]]]))
    for name, v in zip(("u.npy", "v.npy"), np.random.default_rng(0).random((2, 30, 2)), strict=True):
        np.save(tmp_path / name, v)
    return tmp_path


def test_distances_over_many_orders_of_magnitude(otkit_, golden):
    for command, wanted in (
        (("w2", "x.npy", "y.npy"), "W2 = 1.57888"),
        (("w2", "x.npy", "y.npy", "--rtol", 1e-4), "W2 = 1.57888"),
        (("wp", "-p", 20, "u.npy", "v.npy"), "W20 = 0.396914"),
        (("wp", "-p", 36, "u.npy", "v.npy"), "W36 = 0.420401"),
        (("wp", "-p", "inf", "u.npy", "v.npy"), "Winf = 0.460302853"),
    ):
        status, out, err = otkit_(*command)
        assert (status, err) == (0, "")
        assert out.startswith(wanted)


def test_the_order_in_json(answer, golden):
    assert answer("wp", "-p", "inf", "u.npy", "v.npy")["p"] == "inf"
    assert answer("wp", "-p", "2", "u.npy", "v.npy")["p"] == 2
    assert answer("wp", "-p", "2.5", "u.npy", "v.npy")["p"] == 2.5


def test_an_interval_that_rounding_leaves_wide_exits_with_1(otkit_, tmp_path):
    # Equal fills of weights that differ in the last digits.
    rng = np.random.default_rng(5)
    for name in ("x.csv", "y.csv"):
        weights = rng.dirichlet(np.ones(30))
        table = np.column_stack([rng.normal(size=(30, 2)), weights])
        np.savetxt(tmp_path / name, np.vstack([table, [1e12, 1e12, 1 / 3]]), delimiter=",", fmt="%.17g")
    status, out, err = otkit_("w2", "x.csv", "y.csv", "--weights", 2)
    assert status == 1
    assert out.startswith("W2 = ")
    assert "not certified to the last digits: Stopped at rounding errors" in err


def test_json(answer, files):
    found = answer("w1", "a.npy", "b.npy")
    assert list(found) == ["distance", "lower", "upper", "p", "status", "seconds", "kernel"]
    assert (found["p"], found["status"]) == (1, "CONVERGED")
    assert 0 < found["seconds"] < 60
    assert "numpy" in found["kernel"]


@pytest.mark.parametrize("names", [["a.npy", "b.npy"], ["a.npy", "b.npy", "c.npy"]])
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_what_is_not_certified_exits_with_1(otkit_, files, names, as_json):
    status, out, err = otkit_("w2", *names, "--reg", 50, *as_json)
    assert status == 1
    assert out.count("\n") == (1 if as_json else 2 if len(names) == 2 else 4)
    if not as_json:
        assert err.count("\n") == 1
        assert "not certified to --rtol 0.01" in err
    status, _, err = otkit_("w2", *names, "--reg", 50, "--rtol", 0.99, *as_json)
    assert (status, err) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--reg", 1e-3]])
def test_the_interval_at_the_time_limit(otkit_, answer, files, arguments):
    x, y = (np.load(files / name) for name in ("a.npy", "b.npy"))
    status, out, err = otkit_("w2", "a.npy", "b.npy", "--time-limit", 1e-9, *arguments)
    lower, upper = map(float, re.search(r"\[(\S+), (\S+)\]", out).groups())
    assert lower * (1 - 1e-9) <= exact(x, y, 2) <= upper * (1 + 1e-9)
    if arguments:
        assert status == 1
        assert "not certified" in err
    assert answer("w2", "a.npy", "b.npy", "--time-limit", 1e6)["status"] == "CONVERGED"


@pytest.mark.parametrize("arguments", [["--help"], ["w1", "--help"], ["w2", "-h"], ["info", "-h"]])
@pytest.mark.parametrize("columns", ["20", "80"])
def test_help(otkit_, monkeypatch, arguments, columns):
    monkeypatch.setenv("COLUMNS", columns)
    status, out, err = otkit_(*arguments)
    assert (status, err) == (0, "")
    assert out.startswith("usage: otkit")
    if arguments[0].startswith("w"):
        for option in ("rtol", "reg", "weights", "histogram", "unit-square", "resize", "json", "plan", "plot"):
            assert f"--{option}" in out
        assert "exit status" in out


def test_version(otkit_):
    assert otkit_("--version") == (0, f"otkit {otkit.__version__}\n", "")


def test_info(otkit_):
    status, out, err = otkit_("info")
    assert (status, err) == (0, "")
    for line in (f"otkit {otkit.__version__}", f"numpy {np.__version__}", f"pillow {Image.__version__}"):
        assert line in out


def test_a_run_that_compiles_says_so_once(otkit_, monkeypatch):
    def twice(options):
        for _ in range(2):
            numba.njit(lambda: 1.0)()
        return 0

    main = importlib.import_module("otkit.cli.distances")
    monkeypatch.setattr(main, "_distances", twice)
    said = otkit_("w2", "a", "b", compiling=True)
    assert said == (0, "", "otkit: compiling, which is done once; the next run starts at once\n")
    monkeypatch.setattr(main, "_distances", lambda options: 0)
    assert otkit_("w2", "a", "b", compiling=True) == (0, "", "")


def test_as_a_process(files):
    certified = process("w2", "a.npy", "b.npy", "c.npy", cwd=files)
    assert (certified.returncode, certified.stderr) == (0, b"")
    assert len(certified.stdout.splitlines()) == 4
    assert process("w2", "a.npy", "b.npy", "--reg", "50", cwd=files).returncode == 1


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("name", ["raw.npy", "objects.npy"])
def test_no_pickle_is_loaded(files, name):
    if name == "raw.npy":
        (files / name).write_bytes(pickle.dumps(Payload()))
    else:
        np.save(files / name, np.array([[Payload(), 1.0]], dtype=object))
    run = process("w2", name, "a.npy", cwd=files)
    refused((run.returncode, run.stdout.decode(), run.stderr.decode().replace(os.linesep, "\n")), name)
    assert not (files / "executed").exists()


@pytest.mark.parametrize("arguments", [["w2", "a.npy", "b.npy"], ["w2", "a.npy", "b.npy", "c.npy"], ["info"]])
def test_a_reader_that_has_gone_is_no_traceback(files, arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "otkit", *arguments]
    try:
        run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=files, timeout=60, check=False)
    finally:
        os.close(write)
    assert run.stderr == b""
