"""Matrices of the distances between many files, and the shares of a job array that are merged in one."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from otkit.cli.files import Measure
from otkit.cli.report import CERTIFIED, NOT_CERTIFIED, WIDTH, note, wanted
from otkit.errors import ConvergenceWarning

if TYPE_CHECKING:
    from otkit.pairs import PairwiseResult


def matrix(measures: list[Measure], options: argparse.Namespace) -> int:
    """Print the distances between all pairs, or solve a share of them; returns the exit status."""
    from otkit.pairs import pairwise

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
                folder=options.out,
                block=options.block,
                progress=True,
            )
        except KeyboardInterrupt:
            if options.out:
                note(f"interrupted; what is done is in {options.out}, and the same command goes on from there")
            raise
    if found is None:
        share, shares = options.block
        note(f"share {share} of {shares} is in {options.out}; otkit merge {options.out} prints the matrix of all")
        return CERTIFIED
    return _printed(found, names, names, options.rtol, options.reg, options.json)


def merge(options: argparse.Namespace) -> int:
    """Join the blocks of one or several folders, and print the matrix; returns the exit status."""
    from otkit.pairs import PairwiseResult
    from otkit.pairs.store import loaded

    question, answers = loaded([Path(folder) for folder in options.folders])
    found = PairwiseResult(answers, question.grid.layout, question.p, question.names)
    rows = found.layout.rows
    names = found.names or [str(k) for k in range(len(question.digests))]
    across = names if found.layout.cols is None else names[rows:]
    return _printed(found, names[:rows], across, options.rtol, question.reg, options.json)


def _printed(
    found: PairwiseResult, rows: list[str], cols: list[str], rtol: float | None, reg: float | None, as_json: bool
) -> int:
    from otkit.pairs.results import CONVERGED

    pairs = found.condensed
    certified = pairs.upper - pairs.lower <= (rtol or WIDTH) * pairs.upper if reg else pairs.status == CONVERGED
    if as_json:
        files = {"files": rows} if found.layout.cols is None else {"files": rows, "others": cols}
        matrices = {"distance": found.distance, "lower": found.lower, "upper": found.upper}
        print(json.dumps(files | {"p": found.p} | {key: m.tolist() for key, m in matrices.items()}))
    else:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["", *cols])
        for name, row in zip(rows, _rows(found), strict=True):
            table.writerow([name, *(f"{value:.9g}" for value in row)])
    if certified.all():
        return CERTIFIED
    note(f"some pairs are not certified to {wanted(rtol, reg)}; --json prints the intervals")
    return NOT_CERTIFIED


def _rows(found: PairwiseResult) -> Iterator[np.ndarray]:
    """The rows of the matrix of distances, one at a time."""
    layout, distance = found.layout, found.condensed.distance
    if layout.cols is not None:
        yield from found.distance
        return
    all_of_them = np.arange(layout.rows)
    for k in all_of_them:
        others = all_of_them[all_of_them != k]
        row = distance[layout.places(np.minimum(others, k), np.maximum(others, k))]
        yield np.insert(row, k, 0.0)
