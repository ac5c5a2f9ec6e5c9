"""Tables in text: what is a delimiter, a decimal, a name, an index, and what is refused."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from otkit.cli.files import Reading, UnusableInput, read

POINTS = [[0.5, 2.0], [3.0, 4.25]]


@pytest.fixture
def table(tmp_path):
    def write(text, kind="csv", **how):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(str(path), Reading(**how))

    return write


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt"])
@pytest.mark.parametrize(
    "text",
    [
        "x;y\n0,5;2\n3;4,25\n",
        "0,5;2\n3;4,25\n",
        ".5;2\n3;4.25\n",
        "x\ty\n0,5\t2\n3\t4,25",
        ".5|2\n3|4.25\n",
        "  .5   2 \n3\t 4.25\n\n",
        "x y\n0,5 2\n3 4,25\n",
        '"x, in m" y\n.5 2\n3 4.25\n',
        "# two\n# points: 2;3\n.5 2\n3 4.25\n# end\n",
        "x;y;\n.5;2;\n3;4.25;\n",
        "x;y\r.5;2\r3;4.25\r",
        "x;y\n5e-1;+2\n3.;4.25E0\n".encode("utf-16"),
        "sep=;\r\nx;y\r\n0,5;2\r\n3;4,25\r\n",
        '\ufeff"SEP=,"\nx,y\n.5,2\n3,4.25\n',
        "sep=\t\n.5\t2\n3\t4.25\n",
    ],
)
def test_layouts(table, kind, text):
    measure = table(text, kind)
    assert_array_equal(measure.x, POINTS)
    assert measure.notes == ()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (",x,y\n0,.5,2\n1,3,4.25\n", "column 0"),
        (",x,y\n7,.5,2\n2,3,4.25\n", "column 0"),
        (",0,1\n0,0.5,2.0\n1,3.0,4.25\n", "column 0"),
        (",0,1\none,0.5,2.0\ntwo,3.0,4.25\n", "column 0"),
        ("Unnamed: 0,x,y\n0,.5,2\n1,3,4.25\n", "column 'Unnamed: 0'"),
        (",,x,y\na,0,.5,2\na,1,3,4.25\n", "column 0, column 1"),
        ('"x" "y"\n"1" .5 2\n"2" 3 4.25\n', "column 0"),  # R's write.table
        ('"","x","y"\n"1",.5,2\n"2",3,4.25\n', "column 0"),  # R's write.csv
        (" 0 1\n0 0.5 2.0\n1 3.0 4.25\n", "column 0"),
        ("# \tx\ty\n1\t.5\t2\n2\t3\t4.25\n", "column 0"),
    ],
)
def test_an_index_is_left_out_and_told(table, text, left):
    measure = table(text)
    assert_array_equal(measure.x, POINTS)
    (note,) = measure.notes
    assert note.startswith(f"left out as an index: {left}")


def test_an_index_is_read_on_request(table):
    text = ",x,y\n0,.5,2\n1,3,4.25\n"
    assert_array_equal(table(text, columns="0,1,2").x, np.column_stack([[0, 1], POINTS]))
    assert_array_equal(table(text, columns="y,x").x, np.fliplr(POINTS))
    assert table(text, columns="x,y").notes == ()


def test_a_name_of_several_lines_is_one_line(table):
    text = 'x,"two\n lines"\n1,2\n'
    assert_array_equal(table(text, columns="two lines").x, [[2]])
    with pytest.raises(UnusableInput, match="there are x, two lines, or"):
        table(text, columns="z")


def test_names_come_before_numbers(table):
    text = ",1,0\n7,0.5,2.0\n8,3.0,4.25\n"
    assert_array_equal(table(text, columns="0").x, [[2.0], [4.25]])
    assert_array_equal(table(text, columns="0,2").x, [[7, 2.0], [8, 4.25]])
    assert_array_equal(table(text, columns="-3,-2").x, [[7, 0.5], [8, 3.0]])


@pytest.mark.parametrize("text", ["0,1\n0.5,2.0\n3.0,4.25\n", "0;1\n0,5;2,0\n3,0;4,25\n"])
def test_a_first_row_that_counts_is_names_of_decimals_and_told(table, text):
    measure = table(text)
    assert_array_equal(measure.x, POINTS)
    assert measure.notes == ("the first row, 0,1, is read as names of columns; --header no reads it as numbers",)
    assert_array_equal(table(text, header=False).x, [[0, 1], *POINTS])


@pytest.mark.parametrize(
    "text", ["0,1\n5,2\n3,4\n", "0,1\n0.5,2\n3,4\n", "3,7\n.5,2.\n3.,4.5\n", "0\n.5\n", "0\n1\n2\n"]
)
def test_a_first_row_that_may_be_either_is_asked_for(table, text):
    with pytest.raises(UnusableInput, match="--header yes if it is names, --header no if not"):
        table(text)
    rows = [[float(cell) for cell in line.split(",")] for line in text.splitlines()]
    assert_array_equal(table(text, header=False).x, rows)
    assert_array_equal(table(text, header=True).x, rows[1:])


@pytest.mark.parametrize("header", [None, True, False])
@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("0.5,2\n3,4.25\n", 2),
        ("5,2\n3,4\n", 2),
        ("1,2\n3,4\n", 2),
        ("0,1\n", 1),
        ("NA,x\n1,2\n", 1),
        ("1,x\n1,2\n", 1),
        ("year 2020;b\n1;2\n", 1),
    ],
)
def test_a_first_row_that_is_told_by_its_cells(table, text, rows, header):
    assert len(table(text, header=header).x) == rows


@pytest.mark.parametrize(
    ("text", "how", "note"),
    [
        ("0,.5\n1,.7\n", {}, "column 0 counts the rows and is a coordinate; --columns 1 leaves it out"),
        ("index,x\n1,.5\n2,.7\n", {}, "column 'index' counts the rows and is a coordinate; --columns x leaves it out"),
        ("x,Weight\n1,3\n5,4\n", {}, "column 'Weight' is read as a coordinate; --weights Weight reads it as weights"),
        ("x,mass\n1,3\n5,4\n", {"columns": "x"}, "column 'mass' is not used; --weights mass reads it as weights"),
        ("x,mass\n1,3\n5,4\n", {"columns": "x,mass"}, None),
        ("x,mass\n1,3\n5,4\n", {"weights": "-"}, None),
        ("x,mass\n1,3\n5,4\n", {"weights": "mass"}, None),
        ("mass\n3\n4\n", {}, None),
        ("x,y\n0,3\n1,4\n", {}, None),
        ("0,1\n", {}, None),
        (
            "0,.5,3\n1,.7,4\n",
            {"weights": "2"},
            "column 0 counts the rows and is a coordinate; --columns 1 leaves it out",
        ),
        ("0,.5\n1,.7\n", {"weights": "0"}, None),
    ],
)
def test_notes(table, text, how, note):
    assert table(text, **how).notes == (() if note is None else (note,))


@pytest.mark.parametrize(
    ("text", "how", "words"),
    [
        ("1,2\n3\n", {}, "got 1 (commas separate cells); write as many in each, and decimals with points"),
        ("1;2\n3\n", {}, "got 1 (semicolons separate cells); write as many in each"),
        ("x\n1,5\n2,5\n", {}, "write decimals with points"),
        ("x\ty\n1,5\t2\n2,5\n", {}, "row 3 must have 2 cells, as row 1 has, got 1 (tabs separate cells)"),
        ("1,5\n3\n", {}, "row 2 must have 2 cells"),
        ("1.234,5;2\n1;2\n", {}, "row 1 holds '1.234,5' in column 0"),
        ('x,y\n"1,234",2\n1,2\n', {}, "write numbers without separators of thousands"),
        ("x;y\n1 234;2\n1;2\n", {}, "write numbers without separators of thousands"),
        ("about\nx,y\n1,2\n", {}, "nothing above the header"),
        (
            "1.5;2,5\n1,5;2,5\n",
            {},
            "'1.5' in column 0, which must be numbers (semicolons separate cells, decimals have",
        ),
        ("1_0,2\n3,4\n", {}, "'1_0'"),
        (
            "foo,1,2\nbar,3,4\n",
            {},
            "'foo' in column 0, which must be numbers (commas separate cells); --columns 1,2 leaves",
        ),
        ("foo;1,5\nbar;3,5\n", {}, "--columns 1 leaves it out"),
        ("name,x\nfoo,1\n", {"columns": "name"}, "holds 'foo' in column 'name'"),
        ("a,b\nc,d\n", {}, "row 1 holds 'a' in column 0"),
        (
            "x,y\n1,NA\n2,3\n4,5\n",
            {},
            "row 2 holds 'NA' in column 'y', which must be numbers (commas separate cells); drop",
        ),
        ("x,y\n1,2\n2,NA\n", {"columns": "x", "weights": "y"}, "row 3 holds 'NA'"),
        (
            "x;y\n1,5;2\n2;NA\n2,5;1,25\n",
            {},
            "row 3 holds 'NA' in column 'y', which must be numbers (semicolons separate"
            " cells, decimals have commas); drop such rows",
        ),
        (
            ",x\n0.5,1\n0.7,2\n",
            {},
            "index or a coordinate: column 0; --columns x leaves it out, --columns 0,1 reads it",
        ),
        ("x,x\n1,2\n", {"columns": "x"}, "2 columns are named 'x'; give the number of one"),
        ("x,y\n1,2\n", {"columns": "x,x"}, "columns must differ"),
        ("x,y\n1,2\n", {"columns": "z"}, "no column is named 'z'; there are x, y, or by number 0 to 1"),
        ("1,2\n", {"columns": "z"}, "no column is named 'z'; there are no names, but numbers 0 to 1"),
        (
            "x,y\n1,2\n",
            {"columns": "x,1"},
            "columns must be all names or all numbers, got 'x' beside a number; there are x, y",
        ),
        ("x,y\n1,2\n", {"columns": "x,z"}, "no column is named 'z'"),
        ("x,y\n1,2\n", {"columns": "2"}, "no column has the number 2"),
        ("x,y\n1,2\n", {"columns": "x,y", "weights": "y"}, "is in --columns and is --weights"),
        ("# only\n", {}, "is empty"),
        (" \n# only\n", {}, "comments only"),
    ],
)
def test_refusals(table, text, how, words):
    with pytest.raises(UnusableInput) as refusal:
        table(text, **how)
    assert words in str(refusal.value)


def test_a_tsv_with_commas_is_not_guessed(table):
    with pytest.raises(UnusableInput, match=r"name it \.csv if they separate cells, or write decimals with points"):
        table("1,5\n2,7\n", "tsv")


def test_the_layout_of_a_long_table_is_that_of_its_start_and_all_of_it_is_read(table):
    x = np.arange(30_000) * 2.0
    text = "x;y\n" + "\n".join(f"{value:.0f};1" for value in x) + "\n0,5;1\n"
    assert_array_equal(table(text).x[:, 0], [*x, 0.5])
