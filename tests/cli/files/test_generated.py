"""Generated commands: each reads the points that pandas, NumPy or Pillow read, or says what to do, and that works."""

import re
import shlex
from dataclasses import dataclass, field

import commands
import h5py
import numpy as np
import pandas as pd
import pytest
from commands import MODULE
from PIL import Image

VALUE = r"[= ](?:'[^']*'|[^\s;]+)"
OPTION = re.compile(
    rf"--columns{VALUE}(?: --columns{VALUE})*|--(?:weights|header|format|key){VALUE}|--histogram(?= if)|drop --\w+"
)
PANDAS = {"csv": "csv", "tsv": "csv", "txt": "csv", "json": "json", "parquet": "parquet", "feather": "feather"}
IMAGES = ["png", "jpg", "tif", "bmp", "pgm", "webp"]
KINDS = [*["csv"] * 8, "tsv", *["txt"] * 3, "json", "parquet", "feather", "h5ad", "npy", *["npz"] * 2, *IMAGES]


@dataclass
class Case:
    """A pair of files of one layout, how to read them, and the points and masses that are meant."""

    paths: list
    arguments: list = field(default_factory=list)
    expected: list = field(default_factory=list)
    # What to do where the advice is no option: words of the message, and a function that does it.
    mend: dict = field(default_factory=dict)


def frame(rng, whole):
    """A table of points, with a column of weights."""
    d, n = int(rng.integers(1, 4)), int(rng.integers(4, 10))
    values = rng.permutation(200)[: n * d].reshape(n, d) if whole else rng.standard_normal((n, d)).round(3) + 1e-5
    table = pd.DataFrame(values, columns=list("xyz")[:d])
    return table.assign(**{str(rng.choice(["weight", "mass", "w"])): rng.integers(1, 9, n)})


@dataclass
class Layout:
    """How pandas writes a table."""

    kind: str
    use: str
    header: str
    index: str
    label: bool
    sep: str
    decimal: str
    end: str

    @classmethod
    def draw(cls, rng, kind):
        seps = {"csv": [",", ",", ";", "\t", "|"], "tsv": ["\t", "\t", ","], "txt": [" ", "\t", ";"]}
        text = kind in seps
        headers = ["names", "range", "none", "comment" if kind == "txt" else "names"]
        sep = str(rng.choice(seps.get(kind, [","])))
        header = str(rng.choice(headers)) if text else "names"
        return cls(
            kind,
            use=str(rng.choice(["weights", "coordinate", "absent"])),
            header=header,
            index=str(rng.choice(INDEX if text or kind == "parquet" else ["no"])),
            label=not rng.integers(6) and header == "names",
            sep=sep,
            decimal="." if sep in ",|" or rng.integers(2) else ",",
            end=str(rng.choice(["\n", "\r\n"])),
        )

    @property
    def indexed(self):
        return self.index != "no"

    def read(self, path):
        """What pandas reads of a table, its index included, if it is told how it was written."""
        header = 0 if self.header in ("names", "range") else None
        return pd.read_csv(path, sep=self.sep, decimal=self.decimal, header=header, comment="#")

    def weights(self, name, table):
        named = self.header in ("names", "comment") and not self.lacks_names
        return ["--weights", name if named else str(self.position(name, table))]

    def position(self, name, table):
        return (list(table.columns).index(name) if name in table.columns else table.shape[1] - 1) + self.indexed

    @property
    def lacks_names(self):
        """A comment whose first name is empty: where spaces separate cells, it has one name less."""
        return self.header == "none" or (self.header == "comment" and self.sep == " " and self.indexed)

    @property
    def index_is_read(self):
        """Whether pandas, and otkit with a note, read the index as one column more."""
        return self.lacks_names and self.indexed and self.index != "text"


INDEX = ["no", "no", "range", "shuffled", "text", "float"]


def indexed(table, index, rng):
    n = len(table)
    rows = {
        "no": range(n),
        "range": range(n),
        "shuffled": rng.permutation(3 * n)[:n],
        "text": [f"row {j}" for j in range(n)],
        "float": np.arange(n) + 0.5,
    }
    return table.set_axis(rows[index], axis=0)


def tables(rng, folder, kind):
    """Two tables of one layout, and what pandas reads of them."""
    layout, whole, shape = Layout.draw(rng, kind), bool(rng.integers(2)), rng.integers(2**32)
    case = Case([folder / f"{name}.{kind}" for name in "ab"])
    for number, path in enumerate(case.paths):
        like = np.random.default_rng(shape)
        table = frame(like, whole)
        table.iloc[:, :-1] += number * (1 if whole else 0.25)
        weight = table.columns[-1]
        if layout.use == "absent":
            table = table.drop(columns=weight)
        points = table.drop(columns=weight) if layout.use == "weights" else table
        masses = table[weight].to_numpy() if layout.use == "weights" else None
        if layout.header == "range":
            table.columns = range(table.shape[1])
        table = indexed(table, layout.index, like)
        if layout.label:
            table.insert(0, "label", [f"item {j}" for j in range(len(table))])
        write(path, layout, table)
        if layout.use == "weights":
            case.arguments = layout.weights(weight, table)
        x = points.to_numpy(float)
        if kind in ("csv", "tsv", "txt"):  # pandas reads the same, by other code than wrote it
            read = layout.read(path).to_numpy()[:, layout.indexed + layout.label :].astype(float)
            np.testing.assert_allclose(read[:, : x.shape[1]], x, rtol=1e-15)
            if layout.index_is_read:
                x = np.column_stack([layout.read(path).iloc[:, 0], x])
        case.expected.append((x, masses))
    if layout.sep == ",":
        case.mend["name it .csv"] = lambda: [rename(case, number, "csv") for number in range(2)]
    case.mend["write decimals with points"] = lambda: [
        p.write_text(p.read_text().replace(",", ".")) for p in case.paths
    ]
    return case


def rename(case, number, ending):
    case.paths[number] = case.paths[number].rename(case.paths[number].with_suffix(f".{ending}"))


def write(path, layout, table):
    if layout.kind == "json":
        table.to_json(path, orient="records", double_precision=15)
    elif layout.kind == "parquet":
        table.to_parquet(path, index=layout.indexed)
    elif layout.kind == "feather":
        table.to_feather(path)
    else:
        header = layout.header in ("names", "range")
        table.to_csv(
            path, index=layout.indexed, header=header, sep=layout.sep, decimal=layout.decimal, lineterminator=layout.end
        )
        if layout.header == "comment":
            names = layout.sep.join([*[""] * layout.indexed, *map(str, table.columns)])
            path.write_text(f"# of a test\n# {names}\n{path.read_text()}")


def arrays(rng, folder, kind):
    case = Case([folder / f"{name}.{kind}" for name in "ab"])
    several, weighted, flat = (bool(rng.integers(2)) for _ in range(3))
    d = int(rng.integers(1, 4))
    for path in case.paths:
        x, w = rng.standard_normal((6, d)), rng.random(6) + 0.1
        if kind == "npy" and flat:
            np.save(path, w)
            case.expected.append((np.arange(6.0)[:, None], w))
        elif kind == "npy":
            np.save(path, np.column_stack([x, w]).astype(rng.choice(["f4", "f8", ">f8"])))
            stored = np.load(path).astype(float)
            case.expected.append((stored[:, :-1], stored[:, -1]) if weighted else (stored, None))
            case.arguments = ["--weights", "-1"] if weighted else []
        elif kind == "npz":
            np.savez(path, **{"x": x} | ({"y": x + 1} if several else {}) | ({"w": w} if weighted else {}))
            case.expected.append((x, w if weighted else None))
            case.arguments = ["--weights", "w"] if weighted else []
        else:
            with h5py.File(path, "w") as file:
                for key in ["X_umap", "X_pca"] if several else ["X_umap"]:
                    file[f"obsm/{key}"] = x if key == "X_umap" or not several else x - 1
                file["obs/w"] = w
            # The first in the order of HDF5.
            case.expected.append((x - 1 if several else x, w if weighted else None))
            case.arguments = ["--weights", "w"] if weighted else []
    return case


def images(rng, folder, kind):
    case = Case([folder / f"{name}.{kind}" for name in "ab"])
    mode = str(rng.choice({"pgm": ["L", "I;16"], "jpg": ["L", "RGB"], "bmp": ["L", "RGB"], "webp": ["RGB", "RGBA"]}.get(
        kind, ["L", "LA", "RGB", "RGBA", "P", "I;16"])))  # fmt: skip
    pages = kind in ("tif", "webp") and not rng.integers(3)
    for path in case.paths:
        grey = rng.integers(0, 2**16 if mode == "I;16" else 256, (5, 6)).astype(
            np.uint16 if mode == "I;16" else np.uint8
        )
        image = Image.fromarray(grey)
        if mode in ("LA", "RGBA"):
            image = image.convert(mode)
            image.putalpha(Image.fromarray(rng.integers(0, 2, (5, 6)).astype(np.uint8) * 255))
        elif mode != "I;16":
            image = image.convert(mode)
        lossless = {"lossless": True, "exact": True} if kind == "webp" else {}
        image.save(path, **lossless, **({"save_all": True, "append_images": [image.transpose(0)]} if pages else {}))
        with Image.open(path) as opened:
            seen = np.asarray(opened if mode == "I;16" else opened.convert("L"), dtype=float)
            opacity = np.asarray(opened.getchannel("A")) / 255 if mode in ("LA", "RGBA") else 1.0
        mass = seen * opacity
        case.expected.append((np.argwhere(mass > 0).astype(float), mass[mass > 0]))

    def first():
        for path in case.paths:
            with Image.open(path) as opened:
                image, kind = opened.copy(), opened.format
            image.save(path, kind, **lossless)

    case.mend["save the one that is meant"] = first
    return case


def disturbed(rng, case, kind):
    """The same files as people have them: with another ending, one without weights, missing values, other bytes."""
    fault = str(rng.choice(["", "", "", "", "ending", "unweighted", "missing", "bytes"]))
    if fault == "ending":
        for number in range(2):
            rename(case, number, "dat")
    elif (
        fault == "unweighted" and kind in ("csv", "json", "parquet") and case.arguments and "-" not in case.arguments[1]
    ):
        x = case.expected[1][0]
        np.save(case.paths[1].with_suffix(".npy"), x)
        case.paths[1] = case.paths[1].with_suffix(".npy")
        case.expected[1] = (x, None)
    elif fault == "missing" and kind == "csv":
        for path in case.paths:
            whole = path.read_bytes()
            first = next(c for c in b";\t|,\n" if bytes([c]) in whole)  # the comma may be that of decimals
            end = b"\r\n" if b"\r\n" in whole else b"\n"
            lines = whole.split(end)
            cells = lines[-2].split(bytes([first]))
            if first == ord("\n") or len(cells) < 2:
                continue
            path.write_bytes(whole + bytes([first]).join([*cells[:-1], b"NA"]) + end)

        def drop():
            for path in case.paths:
                path.write_bytes(
                    b"\n".join(line for line in path.read_bytes().splitlines() if not line.endswith(b"NA"))
                )

        case.mend["drop such rows"] = drop
    elif fault == "bytes" and kind in ("csv", "txt"):
        text = case.paths[0].read_bytes().decode()
        case.paths[0].write_bytes(("# für alle\n" + text).encode("latin-1"))
        case.mend["save it as UTF-8"] = lambda: case.paths[0].write_bytes(
            case.paths[0].read_bytes().decode("latin-1").encode()
        )
    return case


def same(found, expected):
    for (x, a), (points, masses) in zip(found, expected, strict=True):
        masses = np.ones(len(points)) if masses is None else masses
        if x.shape != points.shape or not np.allclose(x, points, rtol=1e-14, atol=0):
            return False
        if not np.allclose(a, masses / masses.sum(), rtol=1e-12, atol=0):
            return False
    return True


@pytest.fixture
def spied(otkit_, monkeypatch):
    """Run the command line: its answer, and the measures that it has read."""

    def run(case, *more):
        seen = []

        def wasserstein(x, y, a, b, **options):
            seen.extend([(x, a / a.sum()), (y, b / b.sum())])
            return ot_wasserstein(x, y, a, b, **options)

        monkeypatch.setattr(MODULE, "wasserstein", wasserstein)
        return otkit_("w1", *(path.name for path in case.paths), *more), seen

    ot_wasserstein = MODULE.wasserstein
    return run


def options_in(message):
    """The alternatives that a message advises, as arguments."""
    return [shlex.split(found) for found in OPTION.findall(message)]


def with_option(arguments, option):
    """Arguments with one option more, or with another value of one that is there."""
    dropped = option[0] == "drop"
    name = option[1] if dropped else option[0].partition("=")[0]
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument == name:
            next(rest)
        elif not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept if dropped else kept + option


def follow(spied, case, arguments, depth=0, meant=True):
    """Whether the command, or what its message advises, reads what is meant; or anything at all."""
    (status, out, err), seen = spied(case, *arguments)
    if status == 0:
        assert out.startswith("W1 = ")
        for line in err.splitlines():
            assert line.startswith("otkit: ")
            for option in options_in(line) if meant else []:
                assert follow(spied, case, with_option(arguments, option), depth + 1, meant=False), (line, option)
        return not meant or same(seen, case.expected)
    commands.refused((status, out, err), case.paths[0].stem)
    assert depth < 5, err  # each line mends one thing
    mends = [mend for words, mend in case.mend.items() if words in err]
    if mends:
        mends[0]()
        return follow(spied, case, arguments, depth + 1, meant)
    advised = options_in(err)
    if "differ in dimension" in err:  # an index that is read in one of two files
        return not meant
    assert advised, err
    # Names of files in the advice for standard input are for people to choose.
    advised = [[o[0], case.kind] if o[0] == "--format" else o for o in advised]
    return any([follow(spied, case, with_option(arguments, option), depth + 1, meant) for option in advised])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(200))
def test_a_generated_command_reads_what_is_meant_or_its_advice_does(spied, tmp_path, seed):
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    make = tables if kind in PANDAS else images if kind in IMAGES else arrays
    case = make(rng, tmp_path, kind)
    case = disturbed(rng, case, kind)
    case.kind = kind
    assert follow(spied, case, case.arguments)
