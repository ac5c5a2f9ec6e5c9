"""The numbers of the command line are right."""

import json
import sys

import numpy as np
import ot
import pytest
from commands import check, cost, exact, on_grid
from numpy.testing import assert_allclose
from PIL import Image
from scipy.stats import wasserstein_distance

import otkit


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


@pytest.mark.parametrize("count", [30, 4200])  # fewer and more pairs than the limit of arcs
def test_large_images_with_few_pixels(answer, tmp_path, count):
    """They are exact, as the points of these pixels."""
    rng = np.random.default_rng(0)
    images = np.zeros((2, 300, 300), dtype=np.uint8)
    for name, w in zip(("x.png", "y.png"), images, strict=True):
        w.flat[rng.choice(w.size, count, replace=False)] = rng.integers(1, 255, count)
        Image.fromarray(w).save(tmp_path / name)
    found = answer("w2", "x.png", "y.png")
    x, y = map(np.argwhere, images)
    a, b = (w[w > 0] / w.sum() for w in images)
    assert found["status"] == "CONVERGED"
    assert_allclose(found["distance"], otkit.wasserstein(x, y, a, b, p=2).distance, rtol=1e-9)
    assert found["upper"] - found["lower"] <= 1e-9 * found["upper"]
    assert answer("w2", "x.png", "x.png")["upper"] == 0


@pytest.mark.parametrize("options", [[], ["--unit-square"]])
def test_images_beyond_the_limit_of_arcs(answer, tmp_path, monkeypatch, options):
    """Their squared distance is certified on the grid, and holds the exact one of points."""
    rng = np.random.default_rng(0)
    for name, shape in (("x.png", (60, 70)), ("y.png", (65, 50))):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(tmp_path / name)
    wanted = answer("w2", "x.png", "y.png")
    monkeypatch.setattr(sys.modules["otkit.cli.distances"], "MAX_ARCS", 1000)
    monkeypatch.setattr(sys.modules["otkit.solvers"], "_EXACT_CELLS", 1000)
    found = answer("w2", "x.png", "y.png")
    assert found["status"] == "CONVERGED"
    assert found["kernel"] == "grid (numpy)"
    assert found["lower"] <= wanted["distance"] <= found["upper"]
    assert found["upper"] ** 2 - found["lower"] ** 2 <= 0.5
    same = answer("w2", "x.png", "x.png", *options)
    assert same["lower"] <= 1e-6


def test_counts_in_clusters_far_from_each_other(answer, tmp_path):
    """Whole numbers stay whole: their shares would leave mass that must cross."""
    (tmp_path / "x.csv").write_text("x,y,count\n0,0,5\n1e8,0,7\n")
    (tmp_path / "y.csv").write_text("x,y,count\n0,0,2\n1,0,3\n1e8,0,7\n")
    found = answer("w2", "x.csv", "y.csv", "--weights", "count", "--plan", "plan.npz")
    assert found["status"] == "CONVERGED"
    assert_allclose([found[name] for name in ("distance", "lower", "upper")], 0.5, rtol=1e-9)
    plan = np.load(tmp_path / "plan.npz")
    assert_allclose(plan["mass"], np.array([2, 3, 7]) / 12, rtol=1e-14)
    assert_allclose(plan["a"], np.array([5, 7]) / 12, rtol=1e-15)
