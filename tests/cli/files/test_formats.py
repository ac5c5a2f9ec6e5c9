"""Files of other libraries, standard input, folders and patterns."""

import gzip
import io
import json
import os
import re
import sys
from decimal import Decimal

import h5py
import numpy as np
import pandas as pd
import pytest
from commands import exact, process, refused
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import otkit.cli.files.reading as reading
from otkit.cli.files import FORMATS, Reading, UnusableInput, read

TABLE = pd.DataFrame({"x": [0.5, 3.0, 7.0], "y": [2, 4, 5], "w": [1, 2, 1]})


def saved(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


@pytest.mark.parametrize("ending", ["parquet", "feather", "json"])
def test_tables_of_pandas(tmp_path, ending):
    path = str(tmp_path / f"a.{ending}")
    if ending == "json":
        TABLE.to_json(path, orient="records")
    else:
        getattr(TABLE, f"to_{ending}")(path)
    measure = read(path, Reading(weights="w"))
    assert_array_equal(measure.x, TABLE[["x", "y"]])
    assert_array_equal(measure.a, [0.25, 0.5, 0.25])
    assert measure.notes == ()
    assert_array_equal(read(path, Reading(columns="y", weights="-")).x, TABLE[["y"]])
    assert read(path).notes == ("column 'w' is read as a coordinate; --weights w reads it as weights",)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pd.array([1, 2, 3], dtype="Int8"), [1, 2, 3]),
        (pd.array([True, False, True]), [1, 0, 1]),
        (pd.array([1, 2, 3], dtype="float32"), [1, 2, 3]),
        (np.array([1.5, 2.5, 3.5], dtype="f2"), [1.5, 2.5, 3.5]),
        ([Decimal("1.25")] * 3, [1.25] * 3),
        (pd.array([1, None, 3], dtype="Int8"), "point 1, from 0, has NaN"),
        (["1", "2", "3"], "must hold real numbers, got text; --columns x,y,w leaves it out"),
        (["a", "2", "3"], "row 1 holds 'a' in column 'new'"),
        ([[1], [2], [3]], "holds no number in column 'new'"),
        (pd.to_datetime(["2020-01-01"] * 3), "datetime64"),
    ],
)
def test_columns_of_parquet(tmp_path, column, values):
    path = str(tmp_path / "a.parquet")
    TABLE.assign(new=column).to_parquet(path)
    if isinstance(values, str):
        with pytest.raises(UnusableInput, match=re.escape(values)):
            read(path)
        assert_array_equal(read(path, Reading(columns="x,y")).x, TABLE[["x", "y"]])
    else:
        assert_array_equal(read(path, Reading(columns="new")).x[:, 0], values)


@pytest.mark.parametrize("name", [None, "day"])
def test_an_index_of_parquet_is_left_out_and_told(tmp_path, name):
    path = str(tmp_path / "a.parquet")
    TABLE.set_axis([3, 1, 2]).rename_axis(name).to_parquet(path)
    measure = read(path, Reading(weights="w"))
    assert_array_equal(measure.x, TABLE[["x", "y"]])
    stored = name or "__index_level_0__"
    assert measure.notes == (f"left out as an index: column '{stored}'; --columns x,y,{stored} reads it",)


def test_a_parquet_file_without_columns_is_refused(tmp_path):
    pd.DataFrame().to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UnusableInput, match="no columns"):
        read(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("value", "how", "x"),
    [
        ([[1, 2.5], [3, 4]], {}, [[1, 2.5], [3, 4]]),
        ([[1, 2**70]], {}, [[1, 2.0**70]]),
        ([0, 3, 0, 1], {"histogram": True}, [[1], [3]]),
        ([{"x": 1, "y": 2}, {"y": 4, "x": 3}], {}, [[1, 2], [3, 4]]),
        ([{"x": 1, "y": "a"}, {"x": 3, "y": "b"}], {"columns": "x"}, [[1], [3]]),
        ([[1, None]], {}, "has NaN or inf; drop such rows"),
        ([{"x": 1}, {"x": None}], {}, "has NaN or inf; drop such rows"),
        ([[1, "a"]], {}, "real numbers"),
        ([[1, 2], [3]], {}, "cannot be read as json"),
        ("[1,", {}, "cannot be read as json"),
        ([{"x": 1}, {"y": 2}], {}, "record 1 and the first differ in x, y; write null"),
        ([{"x": 1}, 2], {}, "cannot be read"),
        ([{"x": "1"}], {}, "must hold real numbers, got text"),
        (TABLE.to_json(), {}, "orient='records'"),
        (3, {}, "list of rows or of records, got 3"),
        ([1, 2], {}, "--histogram"),
    ],
)
def test_json(tmp_path, value, how, x):
    path = saved(tmp_path / "a.json", value)
    if isinstance(x, str):
        with pytest.raises(UnusableInput, match=re.escape(x)):
            read(path, Reading(**how))
    else:
        assert_array_equal(read(path, Reading(**how)).x, x)


@pytest.fixture
def h5ad(tmp_path):
    """A file as AnnData writes it."""

    def write(**obsm):
        path = tmp_path / "a.h5ad"
        with h5py.File(path, "w") as file:
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            for key, x in obsm.items():
                if isinstance(x, str):
                    file.create_group(f"obsm/{key}").attrs["encoding-type"] = "csr_matrix"
                else:
                    file[f"obsm/{key}"] = x
            file["obs/weight"] = [1.0, 3.0]
            file["obs/_index"] = ["cell a", "cell b"]
            file.create_group("obs/cluster").attrs["encoding-type"] = "categorical"
        return str(path)

    return write


def test_points_of_anndata(h5ad):
    path = h5ad(X_pca=np.eye(2), X_umap=np.ones((2, 3)))
    assert_array_equal(read(path, Reading(key="X_pca", weights="-")).x, np.eye(2))
    measure = read(path, Reading(key="X_umap", weights="weight"))
    assert_array_equal(measure.x, np.ones((2, 3)))
    assert_array_equal(measure.a, [0.25, 0.75])
    assert read(h5ad(X_pca=np.eye(2))).notes == ("column 'weight' is not used; --weights weight reads it as weights",)


@pytest.mark.parametrize(
    ("obsm", "how", "words"),
    [
        ({}, {}, "no array in obsm"),
        ({"X_pca": np.eye(2), "X_umap": np.eye(2)}, {}, "got 2 (X_pca, X_umap); --key X_pca picks the first"),
        ({"X_pca": np.eye(2)}, {"key": "pca"}, "no array of obsm is named 'pca'; pass --key with one of X_pca"),
        ({"X_pca": "sparse"}, {}, "must be a dense 2-D array, got csr_matrix"),
        (
            {"X_pca": np.eye(2)},
            {"weights": "cluster"},
            "no column is named 'cluster'; there are weight, or by number 0 to 1",
        ),
    ],
)
def test_what_is_not_in_a_file_of_anndata(h5ad, obsm, how, words):
    with pytest.raises(UnusableInput, match=re.escape(words)):
        read(h5ad(**obsm), Reading(**how))


def test_arrays_of_a_plan(otkit_, files):
    otkit_("w2", "a.npy", "b.npy", "--plan", "plan.npz")
    distance = np.load("plan.npz")["distance"]
    status, out, err = otkit_("w2", "plan.npz", "plan.npz", "--key", "x,y", "--weights", "a,b", "--json")
    assert (status, err) == (0, "")
    assert_allclose(json.loads(out)["distance"], distance, rtol=1e-12)
    refused(otkit_("w2", "plan.npz", "b.npy"), "--key row picks the first")
    refused(otkit_("w2", "plan.npz", "b.npy", "--key", "z"), "no array is named 'z'")
    refused(otkit_("w2", "plan.npz", "b.npy", "--key", "x"), "one without a name")
    assert otkit_("w2", "plan.npz", "b.npy", "--key", "x,-")[0] == 0
    assert otkit_("w2", "plan.npz", "b.npy", "--key", "x", "--key", "-")[0] == 0
    refused(otkit_("w2", "plan.npz", "b.npy", "--key", "x,-,-"), "for each of the 2, got 3")
    refused(otkit_("w2", "i.png", "i.png", "--key", "x"), "drop it")


def test_weights_of_one_file_alone(otkit_, files):
    status, out, err = otkit_("w1", "table.csv", "a.npy", "--weights", "w", "--columns", "x,y")
    refused((status, out, err), "a.npy: --weights: no column is named 'w'; there are no names, but numbers 0 to 1")
    assert "--weights w,- gives it equal ones" in err
    assert otkit_("w1", "table.csv", "a.npy", "--weights", "w,-")[0] == 0
    assert "--weights=-,w " in otkit_("w1", "a.npy", "table.csv", "--weights", "w")[2]
    assert otkit_("w1", "a.npy", "table.csv", "--weights=-,w")[0] == 0
    refused(otkit_("w1", "a.npy", "b.npy", "--weights", "w"), "drop --weights")
    assert otkit_("w1", "table.csv", "i.png", "--weights", "w,-")[0] == 0


def test_compressed_files(otkit_, files):
    for name in ("table.csv", "a.npy"):
        (files / f"{name}.gz").write_bytes(gzip.compress((files / name).read_bytes()))
        assert_array_equal(read(f"{name}.gz").x, read(name).x)
    (files / "broken.csv.gz").write_bytes(b"x,y\n1,2\n")
    refused(otkit_("w1", "broken.csv.gz", "a.npy"), "broken.csv.gz: cannot be read as csv (Not a gzipped file")


def test_weights_that_make_the_dimensions_differ_are_pointed_out(otkit_, files):
    run = otkit_("w1", "table.csv", "a.npy")
    refused(run, "differ in dimension, 3 and 2; ")
    assert "; table.csv: column 'w' is read as a coordinate; --weights w reads it as weights" in run[2]
    refused(otkit_("w1", "table.csv", "a.npy", "--weights", "w"), "--weights w,- gives it equal ones")
    assert otkit_("w1", "table.csv", "a.npy", "--weights", "w,-")[0] == 0


def test_columns_of_each_file(otkit_, files):
    pd.DataFrame({"name": list("rst"), "lon": [0.0, 1, 3], "lat": [0.0, 0, 4]}).to_csv(files / "places.csv")
    call = ("w1", "places.csv", "a.npy")
    run = otkit_(*call, "--columns", "lon,lat")
    refused(run, "a.npy: no column is named 'lon'; there are no names, but numbers 0 to 1; ")
    assert "--columns lon,lat --columns - reads all of that file, or name one of those" in run[2]
    status, out, err = otkit_(*call, "--columns", "lon,lat", "--columns", "-", "--json")
    assert (status, err) == (0, "")
    a = np.load("a.npy")
    true = exact(np.array([[0.0, 0], [1, 0], [3, 4]]), a, 1)
    assert_allclose(json.loads(out)["distance"], true)
    true = exact(np.array([[0.0], [0], [4]]), a[:, [1]], 1)
    assert_allclose(json.loads(otkit_(*call, "--columns", "lat", "--columns", "1", "--json")[1])["distance"], true)
    refused(otkit_(*call, "--columns", "lat", "--columns", "1", "--columns", "1"), "once for all files, or for each of")
    refused(otkit_(*call, "--columns", "lat"), "--columns lat --columns - reads all")
    refused(otkit_("w1", "a.npy", "b.npy", "--columns", "5", "--columns=-3"), "drop --columns")
    run = otkit_("w1", "places.csv", "i.png", "--columns", "lon,lat")
    refused(run, "i.png: --columns picks columns of tables, but this is a grid of masses; drop it, or pass - for it")
    assert otkit_("w1", "places.csv", "i.png", "--columns", "lon,lat", "--columns", "-")[0] == 0


@pytest.mark.parametrize("package", ["pyarrow", "h5py"])
def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setattr(reading, "find_spec", lambda _: None)
    path = tmp_path / ("a.h5ad" if package == "h5py" else "a.parquet")
    path.write_bytes(b"")
    with pytest.raises(UnusableInput, match=rf"needs {package}; pip install 'otkit\[table\]'"):
        read(str(path))


def test_several_pages_are_refused(tmp_path):
    pages = [Image.new("L", (3, 3), grey) for grey in (1, 2, 3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UnusableInput, match="got 3; save the one"):
        read(str(tmp_path / "a.tif"))


def test_standard_input(otkit_, files, monkeypatch):
    data = (files / "table.csv").read_bytes()
    whole = otkit_("w1", "table.csv", "a.npy", "--weights", "w,-", "--json")[1]
    for kind in ("csv", "txt"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        status, out, err = otkit_("w1", "-", "a.npy", "--weights", "w,-", "--format", kind, "--json")
        assert (status, err) == (0, "")
        assert json.loads(out)["distance"] == json.loads(whole)["distance"]
    refused(otkit_("w1", "-", "a.npy"), "pass --format with one of npy")
    refused(otkit_("w1", "-", "-", "--format", "csv"), "read once")
    refused(otkit_("w1", "a.npy", "b.npy", "--format", "csv"), "drop --format")
    refused(otkit_("w1", "a.npy", "-", "--format", "doc"), "--format")


def test_standard_input_of_a_process(files):
    run = process("w2", "-", "b.npy", "--format", "npy", cwd=files, input=(files / "a.npy").read_bytes())
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.split()[:3] == process("w2", "a.npy", "b.npy", cwd=files).stdout.split()[:3]


def test_the_format_of_an_unknown_ending(otkit_, files):
    (files / "a.npy").rename(files / "points")
    refused(otkit_("w2", "points", "b.npy"), f"pass --format with one of {', '.join(FORMATS)}")
    assert otkit_("w2", "points", "b.npy", "--format", "npy")[0] == 0


def test_a_folder_and_a_pattern_are_their_files(otkit_, files):
    folder = files / "folder"
    folder.mkdir()
    for name in "abc":
        (files / f"{name}.npy").rename(folder / f"{name}.npy")
    (folder / "notes.md").write_text("none of it")
    (folder / ".hidden.npy").write_text("none of it")
    (folder / "deeper.npy").mkdir()
    matrix = otkit_("w2", "folder", "--json")
    names = [f"folder/{name}.npy" for name in "abc"]
    assert json.loads(matrix[1])["files"] == names
    assert otkit_("w2", "folder/[a-c].npy", "--json")[1] == otkit_("w2", *names, "--json")[1] == matrix[1]
    # What the command writes there is not read when it is repeated.
    first = otkit_("w2", "folder", "--out", "folder/pairs")
    assert otkit_("w2", "folder", "--out", "folder/pairs") == first
    assert first[0] == 0
    (files / "[x].npy").write_bytes((folder / "a.npy").read_bytes())
    assert otkit_("w2", "[x].npy", "folder/b.npy")[0] == 0
    refused(otkit_("w2", "folder/*.npz"), "folder/*.npz: no such file")
    (files / "empty").mkdir()
    refused(otkit_("w2", "empty", "a.npy"), "empty: no file in this folder can be read")
    refused(otkit_("w2", "folder/a.npy"), "two files")
    refused(otkit_("w2", "folder/aa.npy", "folder/b.npy"), f"no such file; is it {os.path.join('folder', 'a.npy')}?")
    refused(otkit_("w2", "nowhere/points.csv", "folder/b.npy"), "no such file; check its folder and its ending")


def test_a_note_is_told_once_for_all_files(otkit_, files):
    status, _, err = otkit_("w1", "table.csv", "table.csv", "table.csv")
    assert status == 0
    assert err == "otkit: table.csv and 2 more: column 'w' is read as a coordinate; --weights w reads it as weights\n"
    status, _, err = otkit_("w1", "table.csv", "table.csv", "--weights", "-")
    assert (status, err) == (0, "")


def test_the_same_columns_in_another_order_are_not_compared_by_their_places(otkit_, files):
    (files / "xy.csv").write_text("x,y\n0,0\n0,1\n")
    (files / "yx.csv").write_text("y,x\n0,0\n1,0\n")
    refused(otkit_("w1", "xy.csv", "yx.csv"), "yx.csv has y, x; --columns x,y reads both alike")
    status, out, _ = otkit_("w1", "xy.csv", "yx.csv", "--columns", "x,y", "--json")
    assert (status, json.loads(out)["distance"]) == (0, 0.0)
    assert otkit_("w1", "xy.csv", "xy.csv")[0] == 0
