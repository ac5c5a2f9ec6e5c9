"""What the command line cannot use, and how it says so."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from commands import MODULE, refused
from PIL import Image

import otkit

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
    "unknown.dat": b"1,2\n",
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
        (["wp", "a.npy", "b.npy"], "-p"),
        *((["wp", "-p", value, "a.npy", "b.npy"], "1 to 1024, or inf") for value in ("0.5", "2000", "nan", "x")),
        (["wp", "-p", "inf", "a.npy", "b.npy", "--reg", "1"], "--reg"),
        (["wp", "-p", "inf", "a.npy", "b.npy", "a.npy"], "two files"),
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
    [
        ((16400, 2), [], "take a sample of at most 16384 points of each"),
        ((130, 130), ["--histogram"], "pass --resize 128"),
        ((26, 26, 26), ["--histogram"], "take a sample of at most 16384 points of each"),
        ((16400, 1), ["--reg", "1"], "drop --reg"),
    ],
)
def test_more_arcs_than_the_limit(otkit_, tmp_path, shape, arguments, advice):
    np.save(tmp_path / "x.npy", np.ones(shape))
    for command, count in (("w2", 3), ("wp -p 3", 2)):
        run = otkit_(*command.split(), *["x.npy"] * count, *arguments)
        refused(run, advice)
        assert "limit" in run[2]


def test_the_advice_on_a_limit_works(otkit_, files, monkeypatch):
    monkeypatch.setattr(MODULE, "MAX_ARCS", 4**4)
    np.save(files / "x.npy", np.load("a.npy")[:16])
    refused(otkit_("w2", "a.npy", "x.npy"), "at most 16 points of each")
    assert otkit_("w2", "x.npy", "x.npy")[0] == 0
    refused(otkit_("w1", "i.png", "j.png"), "pass --resize 4")
    assert otkit_("w1", "i.png", "j.png", "--resize", 4)[0] == 0
    refused(otkit_("w2", "i.png", "a.npy"), "take a sample")


def test_the_advice_on_dimensions_works(otkit_, files):
    refused(otkit_("w2", "a.npy", "solid.npy"), "--columns, once for both or once for each, picks as many")
    assert otkit_("w2", "a.npy", "solid.npy", "--columns", "0,1")[0] == 0
    np.save(files / "cube.npy", np.ones((2, 2, 2)))
    refused(otkit_("w2", "masses.npy", "cube.npy", "--histogram"), "give grids as many axes")


def test_images_beyond_the_limit_pass_once_resized(otkit_, tmp_path):
    for name, grey in (("x.png", 100), ("y.png", 30)):
        image = Image.new("L", (130, 130), grey)
        image.paste(255, (20, 20, 50, 40))
        image.save(tmp_path / name)
    refused(otkit_("w1", "x.png", "y.png"), "pass --resize 128")
    refused(otkit_("w2", "x.png", "y.png", "--plan", "p.npz"), "pass --resize 128")
    assert otkit_("w1", "x.png", "y.png", "--resize", 10)[0] == 0


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
