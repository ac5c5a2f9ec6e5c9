"""Writing of plans to files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from otkit.cli.files.measure import Measure

if TYPE_CHECKING:
    from otkit.results.result import Result


def save_plan(path: str, result: Result, x: Measure, y: Measure, distance: float) -> None:
    """Write the arcs of a plan of shares, their end points and the distance to an ``.npz`` file."""
    arcs = result.plan_sparse()
    mass = arcs.mass if result.whole is not None else arcs.mass / result.problem.mass
    np.savez_compressed(
        path, row=arcs.row, col=arcs.col, mass=mass, x=x.x, y=y.x, a=x.a, b=y.a, distance=np.float64(distance)
    )
