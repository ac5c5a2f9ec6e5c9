"""The options ``--gaussian`` and ``--sliced``: distances that take no plan."""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np

from otkit.cli.files import Measure, UnusableInput
from otkit.cli.report import CERTIFIED

# The seed of the directions, so that a command repeats its answer.
_SEED = 0


def asked(options: argparse.Namespace) -> str | None:
    """The option of the two that is given; ``UnusableInput`` beside options that do not apply to it."""
    given = [name for name in ("gaussian", "sliced") if getattr(options, name)]
    if not given:
        return None
    name = f"--{given[0]}"
    if len(given) > 1:
        raise UnusableInput("--gaussian and --sliced are different distances; pass one of them")
    for other in ("rtol", "reg", "time_limit", "mass", "out", "block", "plan", "plot"):
        if getattr(options, other) is not None:
            raise UnusableInput(f"--{other.replace('_', '-')} does not apply to {name}; drop one of them")
    if len(options.files) > 2:
        raise UnusableInput(f"{name} is for two files, got {len(options.files)}; name two")
    if given[0] == "gaussian" and options.p != 2:
        raise UnusableInput(f"--gaussian is a formula for w2, got p = {options.p:g}; run otkit w2")
    if options.p == math.inf:
        raise UnusableInput("--sliced takes a finite order, got -p inf; pass another -p")
    return given[0]


def report(name: str, x: Measure, y: Measure, options: argparse.Namespace) -> int:
    """Print the distance of an option between two files; the exit status."""
    start = time.perf_counter()
    found: dict[str, Any]
    if name == "gaussian":
        from otkit.gaussians import gaussian_wasserstein

        moments = [_moments(measure) for measure in (x, y)]
        distance = gaussian_wasserstein(*(mean for mean, _ in moments), *(cov for _, cov in moments))
        found = {"distance": distance, "p": 2}
        title = f"W2 of the Gaussians with their moments = {distance:.6g}   a lower bound of W2"
    else:
        from otkit.slices import sliced_wasserstein

        sliced = sliced_wasserstein(x.x, y.x, x.a, y.a, p=options.p, projections=options.sliced, rng=_SEED)
        found = {"distance": sliced.distance, "error": sliced.error, "p": options.p, "projections": options.sliced}
        found["error"] = sliced.error if options.sliced > 1 else None
        spread = f" ± {sliced.error:.2g}" if options.sliced > 1 else ""
        title = f"sliced W{options.p:g} = {sliced.distance:.6g}{spread}   ({options.sliced} projections)"
    seconds = time.perf_counter() - start
    if options.json:
        print(json.dumps({**found, "seconds": seconds}))
    else:
        print(title)
        print(f"{len(x.a)} × {len(y.a)} points, {seconds:.2f} s")
    return CERTIFIED


def _moments(measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the covariance of a measure."""
    points = np.asarray(measure.x, dtype=np.float64)
    share = np.asarray(measure.a, dtype=np.float64) / np.sum(measure.a, dtype=np.float64)
    mean = share @ points
    centred = (points - mean) * np.sqrt(share)[:, None]
    return mean, centred.T @ centred
