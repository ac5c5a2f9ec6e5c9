import json

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from otkit import cli


@pytest.fixture
def plot(tmp_path, monkeypatch, capsys):
    """The picture and the figure of a run on two arrays: clouds, or with grey values of uint8, images."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    monkeypatch.chdir(tmp_path)

    def run(x, y, *options, command="w2"):
        names = []
        for name, values in (("first", x), ("second", y)):
            names.append(f"{name}.png" if values.dtype == np.uint8 else f"{name}.npy")
            Image.fromarray(values).save(names[-1]) if values.dtype == np.uint8 else np.save(names[-1], values)
        status = cli.main([command, *names, "--plot", "plot.png", "--json", *options])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        assert json.loads(out)["p"] == int(command[1])
        with Image.open("plot.png") as image:
            assert image.format == "PNG"
            return figures[-1], np.asarray(image.convert("RGB")).astype(int)

    return run


def lines(figure):
    return np.array([line.get_xydata() for line in figure.axes[0].lines])


def ink(picture):
    """The pixels inside of the frame that are not white, and those that are coloured."""
    h, w, _ = picture.shape
    middle = picture[h // 8 : -h // 8, w // 8 : -w // 8]
    return (middle.min(-1) < 250).sum(), (np.ptp(middle, axis=-1) > 60).sum()


def spot(center, shape, k=1):
    image = np.zeros(shape, np.uint8)
    image[center[0] - k : center[0] + k + 1, center[1] - k : center[1] + k + 1] = 200
    return image


@pytest.mark.parametrize("d", [1, 2, 3])
def test_points_and_arcs(plot, rng, d):
    x, y = rng.random((12, d)), rng.random((15, d)) + 0.3
    figure, picture = plot(x, y)
    points = [c.get_offsets() for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    for drawn, given in zip(points, (x, y), strict=True):
        columns = min(d, 2)
        assert_allclose(np.asarray(drawn)[:, :columns], given[:, :columns])
    starts, ends = lines(figure).swapaxes(0, 1)
    for tips, drawn in zip((starts, ends), points, strict=True):
        assert (abs(tips[:, None] - np.asarray(drawn)).sum(-1).min(1) < 1e-12).all()
    assert 12 <= len(starts) <= 12 * 15
    assert ink(picture)[0] > 3000
    assert ink(picture)[1] > 1000
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["first.npy", "second.npy"]


def test_arcs_join_what_is_transported(plot):
    x = np.array([[0.0, 0], [10, 0], [0, 10]])
    y = x + np.array([1.0, 2])
    figure, picture = plot(x, y[[2, 0, 1]])
    found = sorted(lines(figure).reshape(-1, 4).tolist())
    assert found == sorted(np.column_stack([x, y]).tolist())
    assert_array_equal(picture[[0, -1]][:, [0, -1]], 255)


def test_points_on_a_line_have_arcs_that_can_be_seen(plot, rng):
    figure, _ = plot(rng.random((5, 1)), rng.random((6, 1)))
    assert (np.ptp(lines(figure)[..., 1], axis=1) > 0).all()


@pytest.mark.parametrize("shape", [(9,), (3, 4, 2)])
def test_histograms_that_are_not_images(plot, rng, shape):
    figure, picture = plot(rng.random(shape), rng.random(shape), "--histogram")
    assert len(figure.axes[0].lines) >= np.prod(shape)
    assert ink(picture)[1] > 200


def test_only_the_strongest_arcs_are_drawn(plot):
    n = 600
    x = np.column_stack([np.arange(n), np.where(np.arange(n) < n - 3, 1e-6, 1)])
    y = np.column_stack([np.arange(n) + 0.5, x[:, 1]])
    figure, _ = plot(x, y, "--weights", "1")
    drawn = lines(figure)
    assert 3 <= len(drawn) < n
    assert {n - 3, n - 2, n - 1} <= set(drawn[:, 0, 0])


def test_equal_clouds(plot, rng):
    x = rng.random((7, 2))
    figure, picture = plot(x, x)
    assert len(figure.axes[0].collections) == 2
    assert ink(picture)[1] > 200


@pytest.mark.parametrize("options", [[], ["--resize", "10"]])
def test_images_are_marginals_and_displacement(plot, options):
    first, second = spot((4, 5), (20, 20), 3), spot((30, 11), (40, 24), 3)
    figure, picture = plot(first, second, *options)
    left, middle, right = figure.axes[:3]
    assert (left.get_title(), middle.get_title()) == ("first.png", "second.png")
    for axes in (left, middle, right):
        assert axes.yaxis_inverted()
        assert axes.get_aspect() == 1
    arrows = next(c for c in right.collections if isinstance(c, Quiver))
    slack = 2 if options else 0.3
    assert_allclose(np.average(arrows.U, weights=arrows.get_array()), 6, atol=slack)
    assert_allclose(np.average(arrows.V, weights=arrows.get_array()), 26, atol=slack)
    assert_allclose(np.average(arrows.X, weights=arrows.get_array()), 5, atol=slack)
    assert_allclose(np.average(arrows.Y, weights=arrows.get_array()), 4, atol=slack)
    panels = np.array_split(picture, 3, axis=1)
    assert (panels[0].max(-1) < 100).mean() > 0.01
    assert (panels[1].max(-1) < 100).mean() > 0.01
    assert (np.ptp(panels[2], axis=-1) > 60).mean() > 0.01


def test_a_unit_square_fills_the_frame_as_pixels_do(plot):
    first, second = spot((4, 5), (20, 20), 3), spot((14, 11), (20, 20), 3)
    pixels, _ = plot(first, second)
    square, _ = plot(first, second, "--unit-square")
    for one, other in zip(pixels.axes[:3], square.axes[:3], strict=True):
        assert_allclose(20 * np.array(other.get_xlim()) - 0.5, one.get_xlim(), atol=0.6)
        assert_allclose(20 * np.array(other.get_ylim()) - 0.5, one.get_ylim(), atol=0.6)


def test_a_picture_of_a_picture_and_points(plot, rng):
    figure, picture = plot(spot((4, 5), (12, 12)), 6 * rng.random((9, 2)))
    assert len(figure.axes) == 1
    assert ink(picture)[1] > 200


def test_an_entropic_plan(plot, rng):
    x = rng.random((60, 2))
    figure, _ = plot(x, x + 3.0, "--reg", "0.5", "--rtol", "0.5", command="w1")
    assert 60 <= len(figure.axes[0].lines) < 3600
