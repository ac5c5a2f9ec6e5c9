"""The command line: Wasserstein distances between files."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import otkit
from otkit.cli.info import info
from otkit.cli.numbers import count, file_format, fraction, order, positive, share
from otkit.cli.report import INTERRUPTED, UNUSABLE

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


def _distances(options: argparse.Namespace) -> int:
    from otkit.cli.distances import distances  # help and errors of arguments come before all that computes

    return distances(options)


def _merge(options: argparse.Namespace) -> int:
    from otkit.cli.matrix import merge

    return merge(options)


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
    command = commands.add_parser(
        "wp",
        help="p-Wasserstein distance of any order -p; with -p inf, the bottleneck distance",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_distances)
    command.add_argument("-p", type=order, required=True, metavar="P", help="order of the distance, 1 to 1024 or inf")
    _add_options(command)
    join = commands.add_parser("merge", help="the matrix of all pairs, from the folders of all shares of a job array")
    join.set_defaults(run=_merge)
    join.add_argument("folders", nargs="+", metavar="FOLDER", help="what --out was; the result is kept in the first")
    join.add_argument("--rtol", type=fraction, help="as it was given; after --reg only, it decides the exit status")
    join.add_argument("--json", action="store_true", help="print a JSON object")
    versions = commands.add_parser("info", help="versions of otkit and its dependencies")
    versions.set_defaults(run=info)
    return parser


def _add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    each: dict[str, Any] = {"action": "append", "default": []}  # once for all files, or once for each
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="two files; more, or a folder or pattern, for all pairs",
    )
    add(
        "--rtol",
        type=fraction,
        help="stop at an interval of this relative width; by default the distance is exact, or 0.01 with --reg; of "
        "images with over 2^28 pairs, by default the squared distance is within 1e-4, or half a squared pixel",
    )
    add(
        "--reg",
        type=positive,
        help="entropic regularisation, in units of the distance to the power p; without it, none",
    )
    add("--time-limit", type=positive, metavar="S", help="stop after S seconds, with the interval that is known then")
    add(
        "--weights",
        **each,
        metavar="COL",
        help="column of weights: a name or a number from 0; COL,- for the first file alone",
    )
    add(
        "--columns",
        **each,
        metavar="COL,COL",
        help="columns of coordinates: names, or numbers from 0; by default, and for -, all others. Once for all files,"
        " or once for each",
    )
    add("--header", choices=("yes", "no"), help="whether a first row of whole numbers is names, where it does not show")
    add("--key", **each, help="array of an .npz file, or of obsm of an .h5ad file; KEY,KEY for one of each file")
    add("--format", type=file_format, metavar="FORMAT", help="format of - and of files of unknown endings: csv, npy, …")
    add("--histogram", action="store_true", help="arrays hold masses on a grid, not points")
    add("--unit-square", action="store_true", help="grids span [0, 1] along their longest side")
    add("--resize", type=count, metavar="N", help="average images down to N pixels along the longer side")
    add("--mass", type=fraction, metavar="M", help="move only this part of the mass, that of least cost")
    add("--gaussian", action="store_true", help="w2 of the Gaussians with the moments of the files, a lower bound")
    add("--sliced", type=count, metavar="N", help="sliced distance: the mean over N random projections to lines")
    add("--json", action="store_true", help="print a JSON object")
    add("--out", metavar="FOLDER", help="save each block of pairs when solved; the same command resumes from there")
    add("--block", type=share, metavar="I/N", help="solve share I of N of the pairs, for job arrays; needs --out")
    add("--plan", metavar="OUT.npz", help="save the plan: row, col, mass, and the points x and y")
    add("--plot", metavar="OUT.png", help="draw the plan (needs matplotlib)")
