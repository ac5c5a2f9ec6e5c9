"""Matrices, plans and plots of the command line."""

import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from commands import process, refused
from numpy.testing import assert_allclose, assert_array_equal

import otkit
from otkit.cli.report import INTERRUPTED


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
    command = [sys.executable, "-m", "otkit", "w2", *names, "--out", "pairs"]
    kept = files / "pairs" / "blocks"
    slowly = os.environ | {"OTKIT_NUM_THREADS": "1"}  # there has to be something left to interrupt
    with subprocess.Popen(command, cwd=files, env=slowly, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while not kept.exists() or len(list(kept.iterdir())) < 4:
            assert run.poll() is None
            time.sleep(0.001)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (INTERRUPTED, b"")
    assert err == b"interrupted; what is done is in pairs, and the same command goes on from there\n"
    done = {path: path.stat().st_ino for path in kept.iterdir()}
    assert len(done) >= 4
    assert process("w2", *names, "--out", "pairs", "--block", "1/1", cwd=files).returncode == 0
    assert len(list(kept.iterdir())) > len(done)
    assert {path: path.stat().st_ino for path in done} == done
    again = process("w2", *names, "--out", "pairs", cwd=files)
    assert again.returncode == 0
    assert again.stdout == process("w2", *names, cwd=files).stdout


def test_shares_of_a_job_array_are_merged(otkit_, files):
    names = ["a.npy", "b.npy", "c.npy", "a.npy"]
    for share in (2, 1):
        status, out, err = otkit_("w1", *names, "--out", "pairs/", "--block", f"{share}/2")
        assert (status, out) == (0, "")
        assert err == f"share {share} of 2 is in pairs/; otkit merge pairs/ prints the matrix of all\n"
    whole = otkit_("w1", *names)
    assert otkit_("merge", "pairs") == whole
    assert otkit_("merge", "pairs") == whole
    assert otkit_("w1", *names, "--out", "pairs") == whole
    assert otkit_("merge", "pairs", "--json") == otkit_("w1", *names, "--json")


def test_a_merge_of_entropic_plans_is_certified_as_the_matrix_is(otkit_, files):
    names = ["a.npy", "b.npy", "c.npy"]
    for options in ([], ["--rtol", 0.99]):
        whole = otkit_("w2", *names, "--reg", 50, "--out", "pairs", *options)
        assert whole[0] == (0 if options else 1)
        assert otkit_("merge", "pairs", *options) == whole


def test_a_rectangle_from_python_is_merged(otkit_, answer, files):
    clouds = [np.load(files / f"{name}.npy") for name in "abc"]
    otkit.pairwise(clouds[:1], clouds[1:], names=list("abc"), folder=files / "pairs", block=(1, 1))
    status, out, _ = otkit_("merge", "pairs")
    assert (status, out.splitlines()[0]) == (0, ",b,c")
    assert out.splitlines()[1].startswith("a,")
    found = answer("merge", "pairs")
    assert (found["files"], found["others"]) == (["a"], ["b", "c"])
    assert np.shape(found["lower"]) == (1, 2)


def test_a_merge_that_lacks_blocks(otkit_, files):
    otkit_("w1", "a.npy", "b.npy", "c.npy", "--out", "pairs", "--block", "2/2")
    refused(otkit_("merge", "pairs"), "1 of 1 blocks are missing in pairs; wait for the other shares")
    refused(otkit_("merge", "nowhere"), "nowhere is not a folder of pairwise answers")


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
        (["--out", "pairs"], "more than two files"),
        (["c.npy", "--out", "pairs.csv"], "must be a folder, not a file"),
        (["c.npy", "--out", "a.npy"], "a.npy is not a folder of pairwise answers"),
        (["c.npy", "--out", "nowhere/pairs"], "nowhere"),
        (["c.npy", "--block", "1/2"], "--block needs --out"),
        (["c.npy", "--out", "pairs", "--block", "3/2"], "must be I/N with 1 ≤ I ≤ N"),
        (["c.npy", "--out", "pairs", "--block", "half"], "must be I/N"),
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
