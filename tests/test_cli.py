import csv
import importlib
import io
import itertools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import ot
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.stats import wasserstein_distance

import otkit
from otkit import cli

MODULE = importlib.import_module("otkit.cli.main")  # the function of that name is in its place


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


def cost(x, y, p):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1)) ** p


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


# Right numbers


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("rtol", [1e-1, 1e-4])
def test_clouds(answer, tmp_path, rng, p, d, rtol):
    x, y = rng.standard_normal((30, d)), rng.standard_normal((25, d)) + 0.5
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "y.npz", y)
    check(answer(f"w{p}", "x.npy", "y.npz", "--rtol", rtol), exact(x, y, p), rtol)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("weights", ["w", "1", "-2"])
def test_weighted_clouds(answer, tmp_path, rng, p, weights):
    x, y = rng.random((20, 3)), rng.random((30, 3))
    x[3, 1] = 0
    for name, table, delimiter in (("x.csv", x, ","), ("y.tsv", y, "\t")):
        np.savetxt(tmp_path / name, table, delimiter=delimiter, header=delimiter.join("xwy"), comments="", fmt="%.17g")
    check(answer(f"w{p}", "x.csv", "y.tsv", "--weights", weights), exact(x[:, ::2], y[:, ::2], p, x[:, 1], y[:, 1]))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("unit", [None, "--unit-square"])
def test_images_of_different_sizes(answer, files, p, unit):
    images = [np.asarray(Image.open(files / name), dtype=float) for name in ("i.png", "j.png")]
    (x, a), (y, b) = map(on_grid, images)
    if unit:
        x, y = ((z + 0.5) / max(image.shape) for z, image in zip((x, y), images, strict=True))
    check(answer(f"w{p}", "i.png", "j.png", *filter(None, [unit])), exact(x, y, p, a, b))


def test_histograms_on_a_line(answer, tmp_path, rng):
    a, b = rng.random(40), rng.random(30)
    np.save(tmp_path / "a.npy", a)
    np.savetxt(tmp_path / "b.csv", b[None], delimiter=",", fmt="%.17g")
    x, y = np.arange(40)[:, None], np.arange(30)[:, None]
    check(answer("w1", "a.npy", "b.csv", "--histogram"), wasserstein_distance(x[:, 0], y[:, 0], a, b), rtol=1e-12)
    check(answer("w2", "a.npy", "b.csv", "--histogram"), exact(x, y, 2, a, b), rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 2)])
def test_histograms_on_a_grid(answer, tmp_path, rng, p, shape):
    masses = rng.random((2, *shape)) * (rng.random((2, *shape)) > 0.2)
    for name, mass in zip("ab", masses, strict=True):
        np.save(tmp_path / f"{name}.npy", mass)
    (x, a), (y, b) = map(on_grid, masses)
    check(answer(f"w{p}", "a.npy", "b.npy", "--histogram"), exact(x, y, p, a, b))


def test_an_image_one_pixel_high_and_one_that_is_not(answer, tmp_path):
    row, image = np.zeros((1, 9), np.uint8), np.zeros((5, 4), np.uint8)
    row[0, 7] = image[4, 3] = 255
    for name, values in (("row.png", row), ("image.png", image)):
        Image.fromarray(values).save(tmp_path / name)
    check(answer("w2", "row.png", "image.png"), np.hypot(4, 4))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "slack"), [(None, 0), (50, 0), (25, 1), (16, 50 / 16), (7, 50 / 7)])
def test_resizing_keeps_the_distance_of_a_shift(answer, tmp_path, p, n, slack):
    for name, column in (("x.png", 4), ("y.png", 35)):
        image = np.zeros((40, 50), np.uint8)
        image[20, column] = 200
        Image.fromarray(image).save(tmp_path / name)
    found = answer(f"w{p}", "x.png", "y.png", *(["--resize", n] if n else []))["distance"]
    assert abs(found - 31) <= slack + 1e-9
    unit = answer(f"w{p}", "x.png", "y.png", "--unit-square", *(["--resize", n] if n else []))["distance"]
    assert_allclose(unit, found / 50, rtol=1e-9)


def test_resizing_keeps_the_masses(answer, tmp_path):
    two, one = np.zeros((7, 7), np.uint8), np.zeros((7, 7), np.uint8)
    two[0, 0] = two[0, 6] = one[0, 0] = 255
    for name, image in (("two.png", two), ("one.png", one)):
        Image.fromarray(image).save(tmp_path / name)
    assert_allclose(answer("w1", "two.png", "one.png", "--resize", 2)["distance"], 3.5 / 2, rtol=1e-5)


def test_a_few_pixels_of_a_large_image_need_no_resizing(answer, tmp_path):
    for name, at in (("x.png", (3, 4)), ("y.png", (2990, 2000))):
        image = Image.new("1", (3000, 3000))
        image.putpixel(at, 1)
        image.save(tmp_path / name)
    check(answer("w2", "x.png", "y.png"), np.hypot(2987, 1996))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        ["a.npy"],
        ["line.npy"],
        ["solid.npy"],
        ["i.png"],
        ["i.png", "--resize", "4"],
        ["table.csv", "--weights", "w"],
        ["masses.npy", "--histogram"],
        ["a.npy", "--rtol", "1e-9"],
    ],
)
def test_a_file_and_itself(otkit_, files, p, arguments):
    status, out, err = otkit_(f"w{p}", arguments[0], *arguments)
    assert (status, err) == (0, "")
    assert out.startswith(f"W{p} = 0 ")


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reg", [0.05, 2.0])
def test_reg_gives_the_cost_of_the_entropic_plan(otkit_, tmp_path, rng, p, reg):
    x, y, a, b = rng.random((15, 2)), rng.random((12, 2)) + 1, rng.random(15), rng.random(12)
    np.save(tmp_path / "x.npy", np.column_stack([x, a]))
    np.save(tmp_path / "y.npy", np.column_stack([y, b]))
    C = cost(x, y, p)
    plan = ot.bregman.sinkhorn_log(a / a.sum(), b / b.sum(), C, reg, stopThr=1e-12, numItermax=10_000)
    status, out, _ = otkit_(f"w{p}", "x.npy", "y.npy", "--weights", 2, "--reg", reg, "--json")
    found = json.loads(out)
    assert_allclose(found["distance"], (plan * C).sum() ** (1 / p), rtol=1e-5)
    assert found["lower"] <= exact(x, y, p, a, b) <= found["upper"]
    assert status == (0 if found["upper"] - found["lower"] <= 1e-2 * found["upper"] else 1)


# What is printed, and the exit status


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


@pytest.mark.parametrize(("p", "scale", "status"), [(1, 1e-100, 0), (2, 1e-100, 0), (1, 1e-300, 2), (2, 1e-160, 2)])
def test_a_distance_that_is_small_is_right_or_refused(otkit_, tmp_path, p, scale, status):
    np.save(tmp_path / "x.npy", np.array([[0.0, 0.0]]))
    np.save(tmp_path / "y.npy", scale * np.array([[3.0, 4.0]]))
    run = otkit_(f"w{p}", "x.npy", "y.npy", "--json")
    if status:
        refused(run, "underflow")
    else:
        assert_allclose([json.loads(run[1])[key] for key in ("lower", "upper")], 5 * scale, rtol=1e-11)


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


# Matrices


@pytest.mark.parametrize("p", [1, 2])
def test_a_matrix_is_the_distances_of_all_pairs(otkit_, answer, files, p):
    names = ["a.npy", "b.npy", "a, in metres.npy", "a.npy"]
    (files / "c.npy").rename(files / names[2])
    status, out, err = otkit_(f"w{p}", *names)
    header, *rows = csv.reader(io.StringIO(out))
    assert (status, err) == (0, "")
    assert header == ["", *names]
    assert [row[0] for row in rows] == names
    distance = np.array([row[1:] for row in rows], dtype=float)

    matrices = answer(f"w{p}", *names)
    assert list(matrices) == ["files", "p", "distance", "lower", "upper"]
    assert (matrices["files"], matrices["p"]) == (names, p)
    assert_allclose(distance, matrices["distance"], rtol=1e-8)
    for matrix in (distance, *(np.array(matrices[key]) for key in ("distance", "lower", "upper"))):
        assert_array_equal(matrix, matrix.T)
        assert_array_equal(np.diag(matrix), 0)
    for i, j in itertools.combinations(range(4), 2):
        pair = answer(f"w{p}", names[i], names[j])
        assert_allclose(distance[i, j], pair["distance"], rtol=1e-8)
        for key in ("distance", "lower", "upper"):
            assert matrices[key][i][j] == pair[key]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_for_a_terminal_only(otkit_, files, monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    status, out, _ = otkit_("w1", "a.npy", "b.npy", "c.npy")
    assert status == 0
    assert len(out.splitlines()) == 4
    assert ("3/3" in stream.getvalue()) == terminal
    assert terminal or not stream.getvalue()


@pytest.fixture
def interruptible():
    """Processes that are started here can be interrupted, whatever a shell has set for those in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_matrix_goes_on_from_its_file(files, rng):
    names = [f"{k}.npy" for k in range(16)]
    for name in names:
        np.save(files / name, rng.standard_normal((250, 2)))
    command = [sys.executable, "-m", "otkit", "w2", *names, "--out", "pairs.csv"]
    kept = files / "pairs.csv"
    slowly = os.environ | {"OTKIT_NUM_THREADS": "1"}  # there has to be something left to interrupt
    with subprocess.Popen(command, cwd=files, env=slowly, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while not kept.exists() or kept.read_bytes().count(b"\n") < 4:
            assert run.poll() is None
            time.sleep(0.001)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (MODULE.INTERRUPTED, b"")
    assert err == b"interrupted; what is done is in pairs.csv, and the same command goes on from there\n"
    done = kept.read_bytes()
    assert 4 <= done.count(b"\n") < 121
    again = process("w2", *names, "--out", "pairs.csv", cwd=files)
    assert again.returncode == 0
    assert kept.read_bytes().startswith(done)
    assert kept.read_bytes().count(b"\n") == 121
    assert again.stdout == process("w2", *names, cwd=files).stdout


# Plans and plots


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        ["a.npy", "b.npy"],
        ["line.npy", "line2.npy"],
        ["table.csv", "table2.csv", "--weights", "w"],
        ["i.png", "j.png", "--unit-square"],
        ["a.npy", "b.npy", "--reg", "0.3"],
    ],
)
def test_a_plan_has_the_marginals_and_the_cost(otkit_, files, rng, p, arguments):
    np.save(files / "line2.npy", rng.random((14, 1)))
    np.savetxt(files / "table2.csv", rng.random((14, 3)), delimiter=",", header="w,x,y", comments="")
    _, out, _ = otkit_(f"w{p}", *arguments, "--plan", "a plan.npz", "--json")
    with np.load("a plan.npz") as saved:
        plan = dict(saved)
    assert {"row", "col", "mass", "x", "y"} <= set(plan)
    x, y = plan["x"], plan["y"]
    if arguments[:2] == ["a.npy", "b.npy"]:
        assert_array_equal(x, np.load("a.npy"))
        assert_array_equal(y, np.load("b.npy"))
    tolerance = 1e-6 if "--reg" in arguments else 1e-12
    assert (plan["mass"] > 0).all()
    for side, weights in (("row", plan["a"]), ("col", plan["b"])):
        assert_allclose(np.bincount(plan[side], plan["mass"], len(weights)), weights, atol=tolerance)
    moved = np.linalg.norm(x[plan["row"]] - y[plan["col"]], axis=1)
    assert_allclose((plan["mass"] @ moved**p) ** (1 / p), json.loads(out)["distance"], rtol=max(1e-9, 10 * tolerance))
    assert float(plan["distance"]) == json.loads(out)["distance"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plan", "plan.txt"], ".npz"),
        (["--plan", "nowhere/plan.npz"], "nowhere"),
        (["--plan", "folder.npz"], "folder.npz"),
        (["--plan", "x" * 300 + ".npz"], "--plan"),
        (["--plot", "nowhere/plot.png"], "nowhere"),
        (["--plot", "folder.png"], "folder.png"),
        (["--plot", "plot.npy"], "plot.npy"),
        (["--plot", "plot"], "--plot"),
        (["--plot", "x" * 300 + ".png"], "--plot"),
        (["c.npy", "--plan", "plan.npz"], "two files"),
        (["--out", "pairs.csv"], "more than two files"),
        (["c.npy", "--out", "pairs.txt"], ".csv"),
        (["c.npy", "--out", "nowhere/pairs.csv"], "nowhere"),
        (["a.npy", "--out", "pairs.csv"], "'a.npy' twice"),
        (["c.npy", "--plot", "plot.png"], "two files"),
    ],
)
def test_an_output_that_cannot_be_written(otkit_, files, arguments, words):
    (files / "folder.npz").mkdir()
    (files / "folder.png").mkdir()
    before = sorted(files.rglob("*"))
    refused(otkit_("w2", "a.npy", "b.npy", *arguments), words)
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize("name", ["with spaces.npy", "größe 日本.npy", "_hidden.npy", "$x_$.npy", "-1.npy", "$x_$.png"])
def test_any_file_name_will_do(otkit_, files, name):
    one, other = ("a.npy", "b.npy") if name.endswith("npy") else ("i.png", "j.png")
    (files / one).rename(files / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        status, _, err = otkit_("w2", "--plot", "plot.png", "--json", "--", name, other)
    assert (status, err, caught) == (0, "", [])
    assert (files / "plot.png").stat().st_size > 10_000


def test_a_stdout_that_lacks_letters(otkit_, files, monkeypatch):
    (files / "a.npy").rename(files / "größe.npy")
    for names in (["größe.npy", "b.npy"], ["größe.npy", "b.npy", "c.npy"]):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", stream)
        status, _, _ = otkit_("w2", *names)
        stream.flush()
        assert status == 0
        assert b"b.npy" in stream.buffer.getvalue() or b"W2 = " in stream.buffer.getvalue()


# What cannot be used


def refused(run, words):
    status, out, err = run
    assert (status, out) == (2, "")
    assert err.startswith("otkit: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert words in err


BAD_FILES = {
    "missing.npy": None,
    "empty.npy": b"",
    "empty.npz": b"",
    "empty.csv": b"",
    "empty.png": b"",
    "noise.npy": b"\x93NUMPY\x01\x00v\x00{'descr': oops}",
    "noise.jpg": b"\xff\xd8\xff\xe0 noise",
    "text.csv": b"x,y\n1,one\n",
    "ragged.csv": b"1,2\n3\n",
    "nan.csv": b"1,nan\n",
    "unknown.txt": b"1,2\n",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file(otkit_, files, name):
    if BAD_FILES[name] is not None:
        (files / name).write_bytes(BAD_FILES[name])
    for names in (["a.npy", name], [name, "a.npy"], ["a.npy", "b.npy", name]):
        refused(otkit_("w2", *names), name)
        refused(otkit_("w1", *names, "--json"), name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["w2", "masses.npy", "masses.npy"], "--histogram"),
        (["w2", "a.npy", "solid.npy"], "dimension, 2 and 3"),
        (["w2", "a.npy", "b.npy", "solid.npy"], "dimension, 2 and 3"),
        (["w2", "a.npy", "masses.npy", "--histogram"], "negative"),
        (["w2", "table.csv", "table.csv", "--weights", "mass"], "mass"),
        (["w2", "table.csv", "table.csv", "--weights", "9"], "--weights"),
        (["w2", "i.png", "j.png", "--weights", "0"], "--weights"),
        (["w2", "a.npy", "b.npy", "--resize", "3"], "--resize"),
        (["w2", "a.npy", "b.npy", "--unit-square"], "--unit-square"),
        (["w2", "."], "two files"),
        (["w2", "a.npy", "."], "."),
        (["w2", "a.npy"], "two files"),
        (["w2"], "FILE"),
        ([], "command"),
        (["w3", "a.npy", "b.npy"], "w3"),
        (["w2", "a.npy", "b.npy", "--bogus"], "--bogus"),
        (["w2", "a.npy", "b.npy", "--weights"], "--weights"),
        *((["w2", "a.npy", "b.npy", "--rtol", value], "--rtol") for value in ("0", "1", "-0.1", "nan", "inf", "x", "")),
        *((["w2", "a.npy", "b.npy", "--reg", value], "--reg") for value in ("0", "-1", "nan", "inf", "x")),
        *((["w2", "i.png", "j.png", "--resize", value], "--resize") for value in ("0", "-3", "2.5", "x")),
        (["info", "a.npy"], "a.npy"),
    ],
)
def test_a_bad_call(otkit_, files, arguments, words):
    refused(otkit_(*arguments), words)


@pytest.mark.parametrize(
    ("x", "words"),
    [([[1e200, 0.0], [0.0, -1e200]], "finite"), ([[np.nan, 0]], "NaN"), ([[0, np.inf]], "inf")],
)
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reg", [[], ["--reg", "1"]])
def test_a_coordinate_that_is_not_a_number_or_too_large(otkit_, tmp_path, x, words, p, reg):
    np.save(tmp_path / "x.npy", x)
    run = otkit_(f"w{p}", "x.npy", "x.npy", *reg)
    if run[0] != 0:
        refused(run, words)
    else:
        assert words == "finite"


@pytest.mark.parametrize(
    ("shape", "arguments", "advice"),
    [((16400, 2), [], "sample"), ((130, 130), ["--histogram"], "--resize"), ((26, 26, 26), ["--histogram"], "limit")],
)
def test_more_arcs_than_the_limit(otkit_, tmp_path, shape, arguments, advice):
    np.save(tmp_path / "x.npy", np.ones(shape))
    for names in (["x.npy"] * 2, ["x.npy"] * 3):
        run = otkit_("w2", *names, *arguments)
        refused(run, advice)
        assert "limit" in run[2]


def test_images_beyond_the_limit_pass_once_resized(otkit_, tmp_path):
    for name, grey in (("x.png", 100), ("y.png", 30)):
        image = Image.new("L", (130, 130), grey)
        image.paste(255, (20, 20, 50, 40))
        image.save(tmp_path / name)
    refused(otkit_("w2", "x.png", "y.png"), "--resize")
    assert otkit_("w2", "x.png", "y.png", "--resize", 10)[0] == 0


@pytest.mark.parametrize(("reg", "status"), [([], 0), (["--reg", "1"], 2)])
def test_the_limit_spares_the_line_only_where_it_is_sorted(otkit_, files, monkeypatch, reg, status):
    monkeypatch.setattr(MODULE, "MAX_ARCS", 100)
    run = otkit_("w2", "masses.npy", "masses.npy", "--histogram", *reg)
    assert run[0] == status
    if status:
        refused(run, "limit")


def test_the_answer_says_what_a_warning_would(otkit_, files, monkeypatch):
    def warned(*arguments, **options):
        warnings.warn("not converged", otkit.ConvergenceWarning, stacklevel=2)
        return otkit.wasserstein(*arguments, **options)

    monkeypatch.setattr(MODULE, "wasserstein", warned)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert otkit_("w2", "a.npy", "b.npy")[0] == 0
    assert not caught


def test_an_interrupt_is_silent(otkit_, files, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "wasserstein", interrupted)
    assert otkit_("w2", "a.npy", "b.npy") == (130, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
@pytest.mark.parametrize("arguments", [["w2", "a.npy", "b.npy"], ["w2", "a.npy", "b.npy", "c.npy"], ["info"]])
def test_a_full_disk_is_one_line_and_no_answer(files, arguments):
    command = [sys.executable, "-m", "otkit", *arguments]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=files, timeout=60, check=False)
    assert run.returncode not in (MODULE.CERTIFIED, MODULE.NOT_CERTIFIED)
    assert run.stderr.count(b"\n") == 1, run.stderr


def test_no_stdout_at_all(otkit_, files, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert otkit_("w2", "a.npy", "b.npy")[0] == 0


def test_no_warning_of_pillow_on_a_large_image(otkit_, files, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        otkit_("w2", "i.png", "i.png")
    assert not caught


# The rest


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


def process(*arguments, **options):
    command = [sys.executable, "-m", "otkit", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)


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
