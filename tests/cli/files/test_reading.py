import gc
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import EpsImagePlugin, Image

from otkit.cli.files import Reading, UnusableInput, read


@pytest.fixture
def file(tmp_path):
    """Write text, bytes, an array, a dict of arrays or an image to a file of that name, and tell its path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_bytes(content.encode())
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            content.save(path, quality=100) if path.suffix == ".jpg" else content.save(path)
        return str(path)

    return write


def mass_on_grid(measure):
    grid = np.zeros(measure.grid)
    grid[tuple(measure.x.astype(int).T)] = measure.a
    return grid


TABLE = [[1.0, 2.0], [3.0, 4.5]]
WEIGHTED = "x,y,w\n1,2,3\n3,4.5,1\n"


@pytest.mark.parametrize(
    ("name", "text", "weights"),
    [
        ("a.csv", "1,2\n3,4.5\n", None),
        ("a.csv", "1,2\n3,4.5", None),
        ("a.CSV", "1,2\r\n3,4.5\r\n", None),
        ("a.tsv", "1\t2\n3\t4.5\n", None),
        ("a.csv", "x,y\n1,2\n3,4.5\n", None),
        ("a.csv", "\ufeff1,2\n3,4.5\n", None),
        ("a.csv", "\n1,2\n\n , \n3,4.5\n\n", None),
        ("a.csv", '"1","2"\n"3", 4.5 \n', None),
        ("a.csv", '"x, in ""m""","two\nlines"\n1e0,+2\n.3e1,4.5\n', None),
        ("a.csv", WEIGHTED, "w"),
        ("a.csv", WEIGHTED, "2"),
        ("a.csv", WEIGHTED, "-1"),
        ("a.csv", "\ufeffw,x,y\n3,1,2\n1,3,4.5\n", "w"),
        ("a.csv", "x, w ,y\n1,3,2\n3,1,4.5\n", "w"),
        ("a.tsv", "w of x\tx\ty\n6\t1\t2\n2\t3\t4.5\n", "w of x"),
        ("a.csv", "3,1,2\n1,3,4.5\n", "0"),
        ("a.csv", "1,x,y\n1,1,2\n3,3,4.5\n", None),
        ("a.csv", "x,y,w\n1,2,3\n7,7,0\n3,4.5,1\n", "w"),
    ],
)
def test_a_table_is_points(file, name, text, weights):
    measure = read(file(name, text), Reading(weights=weights))
    expected = np.array(TABLE) if not text.startswith("1,x") else np.array([[1, 1, 2], [3, 3, 4.5]])
    assert_array_equal(measure.x, expected)
    assert_allclose(measure.a, [0.75, 0.25] if weights else [0.5, 0.5], rtol=1e-15)
    assert measure.grid == ()


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", ">i4", "f2", "f4", ">f8", "g"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_an_array_of_any_real_dtype_is_points(file, name, dtype):
    values = np.asfortranarray([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    measure = read(file(name, values if name == "a.npy" else {"points": values}), Reading(weights="2"))
    assert measure.x.dtype == measure.a.dtype == np.float64
    assert_array_equal(measure.x, [[0, 1], [1, 0]])
    assert_array_equal(measure.a, [0.5, 0.5])


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("unit_square", [False, True])
def test_a_histogram_is_mass_at_the_cells(file, shape, unit_square):
    mass = np.random.default_rng(0).random(shape)
    mass.flat[2] = 0
    measure = read(file("h.npy", mass), Reading(histogram=True, unit_square=unit_square))
    cells = np.argwhere(mass > 0)
    assert_allclose(measure.x, (cells + 0.5) / max(shape) if unit_square else cells, rtol=1e-15)
    assert_allclose(measure.a, mass[mass > 0] / mass.sum(), rtol=1e-14)
    assert measure.grid == shape


def test_a_table_is_a_histogram_on_request(file):
    measure = read(file("h.csv", "a,b,c\n1,0,2\n3,4,6\n"), Reading(histogram=True))
    assert_allclose(mass_on_grid(measure), [[1 / 16, 0, 2 / 16], [3 / 16, 4 / 16, 6 / 16]])


@pytest.mark.parametrize("text", ["1,0,3\n", "1\n0\n3\n"])
def test_one_row_or_column_of_masses_is_a_line(file, text):
    measure = read(file("h.csv", text), Reading(histogram=True))
    assert_array_equal(measure.x, [[0], [2]])
    assert_allclose(measure.a, [0.25, 0.75])


GREY = np.array([[10, 0, 200], [30, 255, 60]], np.uint8)
RED_GREEN_BLUE = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 100, 50]]], np.uint8)
LUMA = RED_GREEN_BLUE @ [0.299, 0.587, 0.114]


def with_alpha(values):
    alpha = np.linspace(0, 255, values[..., 0].size).reshape(values.shape[:2]).astype(np.uint8)
    return np.concatenate([values, alpha[..., None]], axis=-1)


def opacity(rows, columns):
    return np.linspace(0, 255, rows * columns).reshape(rows, columns).astype(np.uint8) / 255


def one_transparent_grey(dtype):
    image = Image.fromarray(GREY.astype(dtype))
    image.info["transparency"] = 30
    return image


def palette():
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    image.putpalette(RED_GREEN_BLUE.reshape(-1).tolist())
    return image


def palette_with_transparency():
    image = palette()
    image.info["transparency"] = bytes([0, 100, 200, 255])
    return image


@pytest.mark.parametrize(
    ("name", "image", "mass", "tolerance"),
    [
        ("grey.png", Image.fromarray(GREY), GREY, 1e-15),
        ("GREY.PNG", Image.fromarray(GREY), GREY, 1e-15),
        ("grey and alpha.png", Image.fromarray(with_alpha(GREY[..., None])), GREY * opacity(2, 3), 1e-15),
        ("grey and one colour.png", one_transparent_grey(np.uint8), GREY * (GREY != 30), 1e-15),
        ("16 bits and one colour.png", one_transparent_grey(np.uint16), GREY * (GREY != 30), 1e-15),
        ("16 bits.png", Image.fromarray(GREY.astype(np.uint16) * 256 + 3), GREY * 256.0 + 3, 1e-15),
        ("1 bit.png", Image.fromarray(GREY > 50), GREY > 50, 1e-15),
        ("rgb.png", Image.fromarray(RED_GREEN_BLUE), LUMA, 2e-3),
        ("rgba.png", Image.fromarray(with_alpha(RED_GREEN_BLUE)), LUMA * opacity(2, 2), 2e-3),
        ("rgba.webp", Image.fromarray(with_alpha(np.full((8, 8, 3), 90, np.uint8))), opacity(8, 8), 2e-3),
        ("grey.tif", Image.fromarray(GREY), GREY, 1e-15),
        ("16 bits.tiff", Image.fromarray(GREY.astype(np.uint16) * 256 + 3), GREY * 256.0 + 3, 1e-15),
        ("floats.tif", Image.fromarray(GREY / np.float32(7)), GREY / 7, 1e-7),
        ("grey.bmp", Image.fromarray(GREY), GREY, 1e-15),
        ("grey.pgm", Image.fromarray(GREY), GREY, 1e-15),
        ("16 bits.pgm", Image.fromarray(GREY.astype(np.uint16) * 256 + 3), GREY * 256.0 + 3, 1e-15),
        ("palette.png", palette(), LUMA, 2e-3),
        ("transparent palette.png", palette_with_transparency(), LUMA * np.array([[0, 100], [200, 255]]) / 255, 2e-3),
        ("grey.jpg", Image.fromarray(GREY.repeat(8, 0).repeat(8, 1)), GREY.repeat(8, 0).repeat(8, 1), 2e-4),
        ("rgb.jpeg", Image.fromarray(np.full((8, 8, 3), [200, 100, 50], np.uint8)), np.ones((8, 8)), 1e-4),
        ("cmyk.jpg", Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).convert("CMYK"), np.ones((8, 8)), 1e-4),
    ],
)
def test_an_image_is_its_grey_values(file, name, image, mass, tolerance):
    measure = read(file(name, image))
    assert measure.grid == mass.shape
    assert_allclose(mass_on_grid(measure), mass / mass.sum(), rtol=0, atol=tolerance)
    assert (measure.a > 0).all()


def test_a_black_pixel_is_no_point(file):
    measure = read(file("a.png", Image.fromarray(GREY)))
    assert_array_equal(measure.x, [[0, 0], [0, 2], [1, 0], [1, 1], [1, 2]])


@pytest.mark.parametrize(
    ("shape", "side", "resized"),
    [
        ((4, 4), 2, (2, 2)),
        ((8, 4), 2, (2, 1)),
        ((6, 12), 4, (2, 4)),
        ((9, 7), 3, (3, 2)),
        ((9, 8), 3, (3, 3)),
        ((5, 5), 1, (1, 1)),
    ],
)
@pytest.mark.parametrize("unit_square", [False, True])
def test_resizing_averages_and_keeps_the_unit(file, shape, side, resized, unit_square):
    mass = np.random.default_rng(1).random(shape)
    measure = read(file("h.npy", mass), Reading(histogram=True, resize=side, unit_square=unit_square))
    assert measure.grid == resized
    pixels = np.argwhere(np.ones(resized)) + 0.5
    cells = pixels * np.array(shape) / resized
    assert_allclose(measure.x, cells / max(shape) if unit_square else cells - 0.5, rtol=1e-14)
    corners = [np.linspace(0, size, count + 1) for size, count in zip(shape, resized, strict=True)]
    shares = [
        np.clip(np.minimum(c[1:, None], np.arange(size) + 1) - np.maximum(c[:-1, None], np.arange(size)), 0, None)
        for c, size in zip(corners, shape, strict=True)
    ]
    assert_allclose(measure.a, (shares[0] @ mass @ shares[1].T).ravel() / mass.sum(), rtol=1e-5)


@pytest.mark.parametrize("side", [6, 7, 100])
def test_resizing_never_enlarges_nor_rounds(file, side):
    mass = 10.0 ** -np.arange(24).reshape(6, 4)
    path = file("h.npy", mass)
    whole, resized = read(path, Reading(histogram=True)), read(path, Reading(histogram=True, resize=side))
    assert_array_equal(resized.x, whole.x)
    assert_allclose(resized.a, whole.a, rtol=1e-12)


@pytest.mark.parametrize("size", [(30, 1), (1, 30)])
def test_an_image_one_pixel_wide_can_be_resized(file, size):
    image = Image.new("L", size)
    image.paste(255, (0, 0, *np.minimum(size, 3)))
    measure = read(file("a.png", image), Reading(resize=10))
    assert_allclose(measure.x.max(), 1)
    assert_allclose(measure.a, [1])


PNG = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "how", "words"),
    [
        ("a.npy", b"", {}, "cannot be read"),
        ("a.npz", b"", {}, "cannot be read"),
        ("a.png", b"", {}, "a.png: cannot be read as an image in PNG, JPEG, TIFF, BMP, PPM, WEBP; save"),
        ("a.npy", b"0123456789", {}, "is no array, or holds Python objects"),
        ("a.jpg", b"\xff\xd8\xff", {}, "cannot be read"),
        ("a.csv", b"", {}, "empty"),
        ("a.csv", "\n\n", {}, "empty"),
        ("a.npy", b"\x93NUMPY\x01\x00", {}, "cannot be read"),
        ("a.npz", b"PK\x03\x04 and no more", {}, "cannot be read"),
        ("a.csv", b"\xff1", {}, "UTF-8"),
        ("a.csv", b"\xff\xfe1", {}, "UTF-8"),
        ("a.csv", "1,2\n3," + "4" * 200_000, {}, "cannot be read"),
        ("a.dat", "1,2\n", {}, "file type"),
        ("a.pkl", pickle.dumps(1), {}, "pickles are never loaded"),
        ("a", "1,2\n", {}, "file type"),
        ("a.npz", {}, {}, "one array, got 0"),
        ("a.npz", {"here": np.eye(2), "there": np.eye(2)}, {}, "here, there"),
        ("a.npz", {"x": np.array([None])}, {}, "never loaded"),
        ("a.npy", np.eye(2) * 1j, {}, "complex"),
        ("a.npy", np.array([["a"]]), {}, "real numbers"),
        ("a.npy", np.zeros(2, [("x", float)]), {}, "real numbers"),
        ("a.npy", np.array(["2020-01-01"], "M8[D]"), {}, "real numbers"),
        ("a.npy", np.ones(3), {}, "--histogram"),
        ("a.npy", np.ones((2, 3, 4)), {}, "--histogram"),
        ("a.npy", np.array(3.0), {}, "2-D"),
        ("a.npy", np.ones((0, 2)), {}, "at least one point"),
        ("a.npy", np.ones((2, 0)), {}, "at least one"),
        ("a.npy", np.ones((0, 2)), {"histogram": True}, "at least one cell"),
        ("a.npy", np.ones(()), {"histogram": True}, "at least one cell"),
        ("a.csv", "x,y\n", {}, "at least one point"),
        ("a.npy", np.array([[1, np.nan]]), {}, "NaN"),
        ("a.npy", np.array([[1, -np.inf]]), {}, "inf"),
        ("a.csv", "1,nan\n", {}, "NaN"),
        ("a.npy", np.array([1, np.nan]), {"histogram": True}, "NaN"),
        ("a.npy", np.array([[1.0, -2.0]]), {"histogram": True}, "non-negative, got -2"),
        ("a.csv", "1,2\n3,-4\n", {"weights": "1"}, "non-negative, got -4"),
        ("a.csv", "1,0\n3,0\n", {"weights": "1"}, "positive"),
        ("a.npy", np.zeros(4), {"histogram": True}, "positive"),
        ("a.npy", np.full(4, 1e308), {"histogram": True}, "finite"),
        ("a.png", Image.new("L", (4, 4)), {}, "positive"),
        ("a.csv", "1,2\n3\n", {}, "row 2"),
        ("a.csv", "x,2\n1,2,3\n", {}, "row 2"),
        ("a.csv", "1,2\n3,many\n", {}, "'many'"),
        ("a.csv", "x,y\n1,\n", {}, "row 2 holds no number in column 'y'"),
        ("a.csv", WEIGHTED, {"weights": "mass"}, "x, y, w"),
        ("a.csv", WEIGHTED, {"weights": "W"}, "x, y, w"),
        ("a.csv", "1,2\n", {"weights": "w"}, "no names"),
        ("a.csv", WEIGHTED, {"weights": "3"}, "0 to 2"),
        ("a.csv", WEIGHTED, {"weights": "-4"}, "0 to 2"),
        ("a.csv", "1\n2\n", {"weights": "0"}, "at least one"),
        ("a.npy", np.ones((2, 2)), {"weights": "w"}, "no names"),
        ("a.npy", np.ones((2, 2)), {"weights": "0", "histogram": True}, "--weights"),
        ("a.png", PNG, {"weights": "0"}, "--weights"),
        ("a.npy", np.ones((2, 2)), {"unit_square": True}, "--unit-square"),
        ("a.npy", np.ones((2, 2)), {"resize": 3}, "--resize"),
        ("a.npy", np.ones((2, 2, 2)), {"resize": 3, "histogram": True}, "--resize"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(file, name, content, how, words):
    path = file(name, content)
    gc.freeze()  # the collection below is of what follows
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(UnusableInput) as refusal:
            read(path, Reading(**how))
        message = str(refusal.value)
        del refusal
        gc.collect()
    assert message.startswith(path)
    assert words in message
    assert "\n" not in message
    assert not caught, "no warning beside the reason, and no file left open"


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.npy", "a.npz"])
def test_a_truncated_file_is_refused(file, name, kept):
    array = np.random.default_rng(0).random((50, 2))
    path = Path(file(name, {".npy": array, ".npz": {"x": array}}.get(Path(name).suffix, PNG)))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UnusableInput, match="cannot be read"):
        read(str(path))


def test_what_is_not_a_file_is_refused(tmp_path):
    (tmp_path / "folder.npy").mkdir()
    for name in ("folder.npy", "nothing.npy", "no/where.csv"):
        with pytest.raises(UnusableInput, match=name):
            read(str(tmp_path / name))


class Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["raw.npy", "raw.npz", "object.npy", "object.npz"])
def test_no_pickle_is_loaded(file, tmp_path, name):
    trace = tmp_path / "executed"
    payload = Payload(trace)
    objects = np.array([[payload, payload]], dtype=object)
    contents = {"raw": pickle.dumps(payload), "object": objects if name.endswith("npy") else {"x": objects}}
    path = file(name, contents[Path(name).stem])
    with pytest.raises(UnusableInput):
        read(path)
    assert not trace.exists()
    np.load(path, allow_pickle=True) if name == "object.npy" else pickle.loads(contents["raw"])
    assert trace.exists(), "the payload would have run"


def test_only_png_and_jpeg_are_decoded(file, monkeypatch):
    called = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: called.append(1) or PNG.im)
    path = file("a.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n")
    with pytest.raises(UnusableInput):
        read(path)
    assert not called


def test_an_image_too_large_for_pillow_is_refused(file, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(UnusableInput, match="1600 pixels"):
        read(file("a.png", PNG))
