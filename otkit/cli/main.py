"""The command line: Wasserstein distances between files."""

from __future__ import annotations

import argparse
import csv
import decimal
import io
import itertools
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NoReturn, TypeVar

import otkit
from otkit.api import solve_sample
from otkit.cli.files import FORMATS, Measure, Reading, UnusableInput, expand, notes, read_all, save_plan
from otkit.cli.info import info
from otkit.distance import WassersteinResult, wasserstein
from otkit.errors import ConvergenceWarning
from otkit.pairs import pairwise
from otkit.results.result import Result

CERTIFIED, NOT_CERTIFIED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

PLANS, PLOTS, MATRICES = (".npz",), (".png", ".jpg", ".pdf", ".svg"), (".csv",)

# Maximum number of arcs, to limit the running time.
MAX_ARCS = 2**28

_N = TypeVar("_N", int, float)

_WIDTH = 1e-2  # the relative width of an interval with a regularisation
_EPILOG = """\
files:
  .npy .npz .csv .tsv .txt .json .parquet .feather   points, one a row; with --histogram, masses on a grid
  .h5ad                                              points: an array of obsm
  .png .jpg .tif .bmp .pgm .webp                     grey values as mass on the pixel grid, distances in pixels
  -                                                  standard input, in the format of --format
Masses are divided by their total. Several files, a folder or a pattern give the matrix of all pairs as CSV.

exit status: 0 the distance is exact or certified to --rtol, 1 it is not, 2 unusable input
"""


class _Parser(argparse.ArgumentParser):
    """A parser with error messages of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"otkit: {message} (see otkit --help)\n")


@dataclass(frozen=True)
class Answer:
    """A distance between two files; the fields are the keys of ``--json``."""

    distance: float
    lower: float
    upper: float
    p: int
    status: str
    seconds: float
    kernel: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments of the command line; by default those of the process.

    Returns
    -------
    int
        The exit status.
    """
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the encoding lacks are written as escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        status = int(options.run(options))
        print(end="", flush=True)
        return status
    except (ValueError, MemoryError) as error:  # UnusableInput, and errors of the solver
        print(f"otkit: {' '.join(str(error).split())}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Python must not retry the failed write at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has closed the pipe: no message
            return INTERRUPTED
        print(f"otkit: the answer cannot be written: {error.strerror}", file=sys.stderr)
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="otkit",
        description="Optimal transport distances between files, with an interval that contains the true one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"otkit {otkit.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for p in (1, 2):
        command = commands.add_parser(
            f"w{p}",
            help=f"the {p}-Wasserstein distance between files, for the Euclidean distance",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=_distances, p=p)
        _add_options(command)
    versions = commands.add_parser("info", help="versions of otkit and its dependencies")
    versions.set_defaults(run=info)
    return parser


def _add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="two files; more, or a folder or pattern, for all pairs",
    )
    add(
        "--rtol",
        type=_fraction,
        help="stop at an interval of this relative width; by default the distance is exact, with --reg it is 0.01",
    )
    add(
        "--reg",
        type=_positive,
        help="entropic regularisation, in units of the distance to the power p; without it, none",
    )
    add(
        "--weights",
        metavar="COL",
        help="column of weights: a name or a number from 0; COL,- for the first file alone",
    )
    add("--columns", metavar="COL,COL", help="columns of coordinates: names, or numbers from 0; by default all others")
    add("--header", choices=("yes", "no"), help="whether a first row of whole numbers is names, where it does not show")
    add("--key", help="array of an .npz file, or of obsm of an .h5ad file; KEY,KEY for one of each file")
    add("--format", choices=FORMATS, metavar="FORMAT", help="format of - and of files of unknown endings: csv, npy, …")
    add("--histogram", action="store_true", help="arrays hold masses on a grid, not points")
    add("--unit-square", action="store_true", help="grids span [0, 1] along their longest side")
    add("--resize", type=_count, metavar="N", help="average images down to N pixels along the longer side")
    add("--json", action="store_true", help="print a JSON object")
    add("--out", metavar="OUT.csv", help="save each pair when solved; the same command resumes from the file")
    add("--plan", metavar="OUT.npz", help="save the plan: row, col, mass, and the points x and y")
    add("--plot", metavar="OUT.png", help="draw the plan (needs matplotlib)")


def _distances(options: argparse.Namespace) -> int:
    options.files = expand(options.files, (options.plan, options.plot, options.out))
    if len(options.files) < 2:
        raise UnusableInput(f"two files are needed, got {len(options.files)}; name another, or a folder or pattern")
    _check_outputs(options)
    measures = read_all(options.files, _reading(options))
    for x, y in itertools.combinations(measures, 2):
        _check_pair(x, y, options)
    for note in notes(measures):
        _note(f"otkit: {note}")
    if len(measures) > 2:
        return _matrix(measures, options)

    x, y = measures
    answer, certified, result = _compare(x, y, options)
    lower, upper = _outward(answer.lower, answer.upper)
    title = f"W{answer.p} = {answer.distance:.{_digits(answer.lower, answer.upper)}g}"
    try:
        if options.plan:
            save_plan(options.plan, result, x, y, answer.distance)
        if options.plot:
            from otkit.cli.plot import save_plot

            save_plot(options.plot, result, x, y, title)
    except OSError as error:
        raise UnusableInput(f"--plan or --plot cannot be written: {error.strerror}; name another file") from None
    if options.json:
        print(json.dumps(vars(answer)))
    else:
        print(f"{title}   in [{lower}, {upper}]")
        print(f"{len(x.a)} × {len(y.a)} points, {result.method}, {answer.kernel}, {answer.seconds:.2f} s")
        if not certified:
            advice = "lower --reg, or leave it out" if options.reg else result.status.value
            _note(f"not certified to {_wanted(options)}: {advice}")
    return CERTIFIED if certified else NOT_CERTIFIED


def _reading(options: argparse.Namespace) -> Reading:
    return Reading(
        weights=options.weights,
        histogram=options.histogram,
        unit_square=options.unit_square,
        resize=options.resize,
        columns=options.columns,
        key=options.key,
        header=None if options.header is None else options.header == "yes",
        format=options.format,
    )


def _wanted(options: argparse.Namespace) -> str:
    """The required width of an interval, as text."""
    width = options.rtol or (_WIDTH if options.reg else None)
    return "the last digits" if width is None else f"--rtol {width:g}"


def _compare(x: Measure, y: Measure, options: argparse.Namespace) -> tuple[Answer, bool, Result]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported with the answer
        if options.reg is None:
            found = wasserstein(x.x, y.x, x.a, y.a, p=options.p, rtol=options.rtol)
            certified = bool(found.converged)
        else:
            result = solve_sample(x.x, y.x, x.a, y.a, metric=("power", options.p), reg=options.reg)
            found = WassersteinResult(result, options.p)
            certified = bool(found.upper - found.lower <= (options.rtol or _WIDTH) * found.upper)
        answer = Answer(
            distance=found.distance,
            lower=found.lower,
            upper=found.upper,
            p=options.p,
            status=found.status.name,
            seconds=time.perf_counter() - start,
            kernel=found.result.kernel,
        )
    return answer, certified, found.result


def _note(words: str) -> None:
    """Print a line on the standard error, after flushing the standard output."""
    print(end="", flush=True)
    print(words, file=sys.stderr)


def _digits(lower: float, upper: float) -> int:
    """Number of digits, from 6 to 9, that distinguish the ends of an interval."""
    if not lower < upper or lower <= 0:
        return 6
    return min(9, max(6, 2 - math.floor(math.log10((upper - lower) / upper))))


def _outward(lower: float, upper: float) -> tuple[str, str]:
    """The ends of an interval in that many digits, rounded outwards."""
    digits = _digits(lower, upper)
    ends = (
        decimal.Context(prec=digits, rounding=rounding).create_decimal_from_float(end)
        for end, rounding in ((lower, decimal.ROUND_FLOOR), (upper, decimal.ROUND_CEILING))
    )
    low, high = (f"{end.normalize():g}" for end in ends)
    return low, high


def _matrix(measures: list[Measure], options: argparse.Namespace) -> int:
    names = [measure.name for measure in measures]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported by the exit status
        try:
            found = pairwise(
                [(measure.x, measure.a) for measure in measures],
                p=options.p,
                rtol=None if options.reg else options.rtol,
                reg=options.reg,
                names=names,
                file=options.out,
                progress=True,
            )
        except KeyboardInterrupt:
            if options.out:
                _note(f"interrupted; what is done is in {options.out}, and the same command goes on from there")
            raise
    narrow = found.upper - found.lower <= (options.rtol or _WIDTH) * found.upper
    certified = bool((narrow if options.reg else found.converged).all())
    matrices = {"distance": found.distance, "lower": found.lower, "upper": found.upper}
    if options.json:
        print(json.dumps({"files": names, "p": options.p} | {key: m.tolist() for key, m in matrices.items()}))
    else:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["", *names])
        for name, row in zip(names, found.distance, strict=True):
            table.writerow([name, *(f"{value:.9g}" for value in row)])
    if not certified:
        _note(f"some pairs are not certified to {_wanted(options)}; --json prints the intervals")
    return CERTIFIED if certified else NOT_CERTIFIED


def _check_outputs(options: argparse.Namespace) -> None:
    """Check the output options before any computation."""
    count = len(options.files)
    for name, path in (("--plan", options.plan), ("--plot", options.plot)):
        if path is not None and count > 2:
            raise UnusableInput(f"{name} is for two files, got {count}; drop it, or name two")
    if options.out is not None and count == 2:
        raise UnusableInput("--out is for more than two files, got 2; use --json for all numbers of one pair")
    _check_path("--plan", options.plan, PLANS)
    _check_path("--plot", options.plot, PLOTS)
    _check_path("--out", options.out, MATRICES)
    if options.plot is not None and find_spec("matplotlib") is None:
        raise UnusableInput("--plot needs matplotlib; pip install 'otkit[plot]'")


def _check_path(name: str, path: str | None, endings: tuple[str, ...]) -> None:
    if path is None:
        return
    if os.path.isdir(path):
        raise UnusableInput(f"{name} {path}: must be a file, got a directory; add a name that ends in {endings[0]}")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise UnusableInput(f"{name} {path}: no such directory; make it first")
    if os.path.splitext(path)[1].lower() not in endings:
        raise UnusableInput(f"{name} {path}: must end in {' or '.join(endings)}; rename it")


def _check_pair(x: Measure, y: Measure, options: argparse.Namespace) -> None:
    d, e = x.x.shape[1], y.x.shape[1]
    if d != e:
        advice = "give grids as many axes" if x.grid and y.grid else "--columns picks as many columns of both"
        raise UnusableInput(f"{x.name} and {y.name} differ in dimension, {d} and {e}; {advice}")
    n, m = len(x.a), len(y.a)
    sorts = d == 1 and options.reg is None
    if not sorts and n * m > MAX_ARCS:
        if d == 1:
            advice = "drop --reg, as points of a line are sorted"
        elif len(x.grid) == len(y.grid) == 2:
            advice = f"pass --resize {math.isqrt(math.isqrt(MAX_ARCS))}"
        else:
            advice = f"take a sample of at most {math.isqrt(MAX_ARCS)} points of each"
        raise UnusableInput(f"{x.name} and {y.name}: {n} × {m} points is more than the limit of 2^28 pairs; {advice}")


def _positive(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a positive number")


def _fraction(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < 1, "a number between 0 and 1")


def _count(text: str) -> int:
    return _number(text, int, lambda value: value > 0, "a positive whole number")


def _number(text: str, kind: type[_N], valid: Callable[[_N], bool], must_be: str) -> _N:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not valid(value):
        raise argparse.ArgumentTypeError(f"must be {must_be}, got {text!r}")
    return value
