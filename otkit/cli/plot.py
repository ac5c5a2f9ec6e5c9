"""Plots of a plan with matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from otkit.cli.files.measure import Measure
from otkit.results.result import Result

# Maximum number of arcs in a plot; more are unreadable.
_ARCS = 500


def save_plot(path: str, result: Result, x: Measure, y: Measure, title: str) -> None:
    """Plot a plan to an image file.

    For two-dimensional grids, the plot shows both marginals, and arrows with the mean displacement of each cell's mass.
    For other measures, it shows the points by their first two coordinates, and the strongest arcs between them.

    Parameters
    ----------
    path : str
        The file to write. Its ending determines the format.
    result : Result
        A solved problem between the points of `x` and `y`.
    x, y : Measure
    title : str
    """
    from matplotlib.figure import Figure

    if len(x.grid) == 2 and len(y.grid) == 2:
        figure = Figure(figsize=(10.5, 4), layout="constrained")
        _draw_grids(figure, result, x, y)
    else:
        figure = Figure(figsize=(6, 6), layout="constrained")
        _draw_points(figure, result, x, y)
    figure.suptitle(title)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # characters of a file's name that the font lacks
        figure.savefig(path, dpi=150)


def _draw_grids(figure: Any, result: Result, x: Measure, y: Measure) -> None:
    left, middle, right = figure.subplots(1, 3)
    for axes, measure in ((left, x), (middle, y)):
        size = 25 * (24 / max(measure.grid)) ** 2
        axes.scatter(measure.x[:, 1], measure.x[:, 0], c=measure.a, s=size, marker="s", cmap="gray_r", vmin=0)
        _frame(axes, measure.x, measure.cell)
        axes.set_title(Path(measure.name).name, parse_math=False)
    moved = result.barycentric() - x.x
    strong = x.a > 0.02 * x.a.max()
    arrows = right.quiver(
        *(x.x[strong, 1], x.x[strong, 0], moved[strong, 1], moved[strong, 0], x.a[strong]),
        **{"angles": "xy", "scale_units": "xy", "scale": 1, "cmap": "viridis", "width": 0.004},
    )
    figure.colorbar(arrows, ax=right, label="mass")
    _frame(right, np.concatenate([x.x, y.x]), x.cell)
    right.set_title("displacement")


def _frame(axes: Any, points: np.ndarray, margin: float) -> None:
    """Set the axes: rows downwards, as in an image, with a margin of one cell."""
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    axes.set(xlim=(low[1], high[1]), ylim=(high[0], low[0]), aspect="equal")


def _draw_points(figure: Any, result: Result, x: Measure, y: Measure) -> None:
    axes = figure.subplots()
    start, end = _plane(x.x, 0.0), _plane(y.x, 1.0)
    arcs = result.plan_sparse()
    strongest = np.argsort(arcs.mass)[::-1][:_ARCS]
    share = arcs.mass[strongest] / arcs.mass[strongest[0]]
    for k, alpha in zip(strongest, share, strict=True):
        line = np.stack([start[arcs.row[k]], end[arcs.col[k]]])
        axes.plot(line[:, 0], line[:, 1], color="0.5", lw=0.8, alpha=max(0.05, float(alpha)), zorder=1)
    drawn = [
        axes.scatter(points[:, 0], points[:, 1], s=30 * measure.a / measure.a.max() + 2, c=color)
        for points, measure, color in ((start, x, "C0"), (end, y, "C3"))
    ]
    if x.x.shape[1] == 1:
        axes.set(ylim=(-0.5, 1.5), yticks=[])
    # Set afterwards, so that matplotlib neither parses names as mathematics nor hides labels.
    for text, measure in zip(axes.legend(drawn, ["x", "y"]).get_texts(), (x, y), strict=True):
        text.set_parse_math(False)
        text.set_text(Path(measure.name).name)


def _plane(x: np.ndarray, level: float) -> np.ndarray:
    """The first two coordinates of points; one-dimensional points lie on a line at `level`."""
    return x[:, :2] if x.shape[1] > 1 else np.column_stack([x, np.full(len(x), level)])
