"""The commands w1, w2 and wp: distances of the measures in files."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from otkit.api import solve_sample
from otkit.cli import quick
from otkit.cli.files import Measure, Reading, UnusableInput, expand, notes, read_all, save_plan
from otkit.cli.files.measure import common_grid, entries, option
from otkit.cli.matrix import matrix
from otkit.cli.report import CERTIFIED, NOT_CERTIFIED, WIDTH, digits, note, outward, wanted
from otkit.distance import WassersteinResult, wasserstein
from otkit.errors import ConvergenceWarning
from otkit.geometry.grid import Grid
from otkit.kernels.numba.jit import told
from otkit.results.result import Result
from otkit.solvers.exact.small import uncompiled

PLANS, PLOTS = (".npz",), (".png", ".jpg", ".pdf", ".svg")

# Maximum number of arcs, to limit the running time.
MAX_ARCS = 2**28

# What a run that compiles says on the standard error.
COMPILING = "otkit: compiling, which is done once; the next run starts at once"


@dataclass(frozen=True)
class Answer:
    """A distance between two files; the fields are the keys of ``--json``."""

    distance: float
    lower: float
    upper: float
    p: float | str
    status: str
    seconds: float
    kernel: str


def distances(options: argparse.Namespace) -> int:
    """Print the distance of two files, or those of all pairs of more; returns the exit status."""
    with told(lambda: note(COMPILING)):
        return _distances(options)


def _distances(options: argparse.Namespace) -> int:
    options.files = expand(options.files, (options.plan, options.plot, options.out))
    if len(options.files) < 2:
        raise UnusableInput(f"two files are needed, got {len(options.files)}; name another, or a folder or pattern")
    _check_outputs(options)
    _check_order(options)
    quickly = quick.asked(options)
    measures = read_all(
        options.files,
        _reading(options),
        columns=options.columns,
        weights=[entry for text in options.weights for entry in entries(text)],
        keys=[entry for text in options.key for entry in entries(text)],
    )
    for y in measures[1:]:
        _check_dimension(measures[0], y)
        _check_columns(measures[0], y)
    *_, x, y = sorted(measures, key=lambda measure: len(measure.a))
    if quickly is None:
        _check_size(x, y, options)
    for word in notes(measures):
        note(f"otkit: {word}")
    if len(measures) > 2:
        return matrix(measures, options)
    x, y = measures
    return _pair(x, y, options) if quickly is None else quick.report(quickly, x, y, options)


def _pair(x: Measure, y: Measure, options: argparse.Namespace) -> int:
    """Print the distance of two files, and write its plan and picture; the exit status."""
    answer, certified, result = _compare(x, y, options)
    lower, upper = outward(answer.lower, answer.upper)
    part = "" if options.mass is None else f" of the mass {options.mass:g}"
    title = f"W{answer.p}{part} = {answer.distance:.{digits(answer.lower, answer.upper)}g}"
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
            note(f"not certified to {wanted(options.rtol, options.reg)}: {advice}")
    return CERTIFIED if certified else NOT_CERTIFIED


def _reading(options: argparse.Namespace) -> Reading:
    return Reading(
        histogram=options.histogram,
        unit_square=options.unit_square,
        resize=options.resize,
        header=None if options.header is None else options.header == "yes",
        format=options.format,
    )


def _compare(x: Measure, y: Measure, options: argparse.Namespace) -> tuple[Answer, bool, Result]:
    start, watched = time.perf_counter(), {"time_limit": options.time_limit, "progress": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported with the answer
        grid = _grid(x, y, options)
        if grid is not None:
            found = wasserstein(grid, grid, x.image(grid.shape), y.image(grid.shape), rtol=options.rtol, **watched)
            certified = bool(found.converged)
        elif options.reg is None:
            with uncompiled():
                whole = options.mass is None and x.masses.sum() == y.masses.sum()
                a, b = (x.masses, y.masses) if whole else _weights(x, y, options)
                found = wasserstein(x.x, y.x, a, b, p=options.p, mass=options.mass, rtol=options.rtol, **watched)
            certified = bool(found.converged)
        else:
            a, b = _weights(x, y, options)
            asked = {"metric": ("power", options.p), "reg": options.reg, "mass": options.mass}
            result = solve_sample(x.x, y.x, a, b, **asked, **watched)
            found = WassersteinResult(result, options.p)
            certified = bool(found.upper - found.lower <= (options.rtol or WIDTH) * found.upper)
        answer = Answer(
            distance=found.distance,
            lower=found.lower,
            upper=found.upper,
            p=_in_json(options.p),
            status=found.status.name,
            seconds=time.perf_counter() - start,
            kernel=found.result.kernel,
        )
    return answer, certified, found.result


def _weights(x: Measure, y: Measure, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """The masses of both files; of total 1 where only a part of them moves."""
    a, b = x.a, y.a
    return (a, b) if options.mass is None else (a / a.sum(), b / b.sum())


def _grid(x: Measure, y: Measure, options: argparse.Namespace) -> Grid | None:
    """The grid of two images that are too large as points; None where there is none, or more than their distance."""
    asked = (
        options.p == 2
        and options.reg is None
        and options.mass is None
        and not options.plan
        and not options.plot
        and len(options.files) == 2
    )
    return common_grid(x, y) if asked and len(x.a) * len(y.a) > MAX_ARCS else None


def _check_outputs(options: argparse.Namespace) -> None:
    """Check the output options before any computation."""
    count = len(options.files)
    pair = [("--plan", options.plan), ("--plot", options.plot), ("--time-limit", options.time_limit)]
    pair += [("--mass", options.mass)]
    for name, given in pair:
        if given is not None and count > 2:
            raise UnusableInput(f"{name} is for two files, got {count}; drop it, or name two")
    if options.out is not None and count == 2:
        raise UnusableInput("--out is for more than two files, got 2; use --json for all numbers of one pair")
    _check_path("--plan", options.plan, PLANS)
    _check_path("--plot", options.plot, PLOTS)
    _check_folder(options)
    if options.plot is not None and find_spec("matplotlib") is None:
        raise UnusableInput("--plot needs matplotlib; pip install 'otkit[plot]'")


def _check_folder(options: argparse.Namespace) -> None:
    path = options.out
    if path is None:
        if options.block is not None:
            raise UnusableInput("--block needs --out, the folder of all shares; pass both")
        return
    if os.path.splitext(path)[1].lower() == ".csv":
        raise UnusableInput(f"--out {path}: must be a folder, not a file; the matrix itself is printed, > {path}")
    if not os.path.isdir(os.path.dirname(path.rstrip(os.sep)) or "."):
        raise UnusableInput(f"--out {path}: no such directory; make its parent first")


def _check_order(options: argparse.Namespace) -> None:
    """Refuse what there is no bottleneck distance of."""
    if options.p == math.inf and options.reg is not None:
        raise UnusableInput("--reg has no limit for -p inf; drop --reg")
    if options.p == math.inf and options.mass is not None:
        raise UnusableInput("--mass needs a finite order, got -p inf; drop one of them")
    if options.p == math.inf and len(options.files) > 2:
        raise UnusableInput(f"-p inf is for two files, got {len(options.files)}; name two")


def _check_path(name: str, path: str | None, endings: tuple[str, ...]) -> None:
    if path is None:
        return
    if os.path.isdir(path):
        raise UnusableInput(f"{name} {path}: must be a file, got a directory; add a name that ends in {endings[0]}")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise UnusableInput(f"{name} {path}: no such directory; make it first")
    if os.path.splitext(path)[1].lower() not in endings:
        raise UnusableInput(f"{name} {path}: must end in {' or '.join(endings)}; rename it")


def _check_dimension(x: Measure, y: Measure) -> None:
    d, e = x.x.shape[1], y.x.shape[1]
    if d != e:
        pick = "--columns, once for both or once for each, picks as many columns"
        advice = "give grids as many axes" if x.grid and y.grid else pick
        told = "".join(f"; {word}" for word in notes([x, y]))
        raise UnusableInput(f"{x.name} and {y.name} differ in dimension, {d} and {e}; {advice}{told}")


def _check_columns(x: Measure, y: Measure) -> None:
    """Refuse the same columns in another order, which would be compared by their places."""
    if x.columns != y.columns and sorted(x.columns) == sorted(y.columns):
        raise UnusableInput(
            f"{x.name} has the columns {', '.join(x.columns)}, and {y.name} has {', '.join(y.columns)}; "
            f"{option('--columns', x.columns)} reads both alike"
        )


def _check_size(x: Measure, y: Measure, options: argparse.Namespace) -> None:
    n, m = len(x.a), len(y.a)
    sorts = x.x.shape[1] == 1 and options.reg is None
    if not sorts and _grid(x, y, options) is None and n * m > MAX_ARCS:
        if x.x.shape[1] == 1:
            advice = "drop --reg, as points of a line are sorted"
        elif len(x.grid) == len(y.grid) == 2:
            advice = f"pass --resize {math.isqrt(math.isqrt(MAX_ARCS))}"
        else:
            advice = f"take a sample of at most {math.isqrt(MAX_ARCS)} points of each"
        raise UnusableInput(f"{x.name} and {y.name}: {n} × {m} points is more than the limit of 2^28 pairs; {advice}")


def _in_json(p: float) -> float | str:
    """The order of a distance, whole if it can be; JSON has no infinite number."""
    return "inf" if p == math.inf else int(p) if p == int(p) else p
