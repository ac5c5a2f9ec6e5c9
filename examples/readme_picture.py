"""
Draw the picture of the README: two clouds, their optimal plan and an entropic one

``python examples/readme_picture.py docs/_static/plan.svg`` writes it, as a few kB of SVG and without matplotlib.
"""

import sys
from pathlib import Path

import numpy as np

import otkit

BLUE, ORANGE, GREY = "#3b82c4", "#e07b39", "#7a838c"
WIDTH, HEIGHT, SCALE = 640, 325, 108

rng = np.random.default_rng(1)
angle, radius = rng.uniform(0, 2 * np.pi, 48), 0.55 * np.sqrt(rng.random(48))
x = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
angle = 2 * np.pi * (np.arange(36) + rng.uniform(-0.3, 0.3, 36)) / 36
y = np.column_stack([np.cos(angle), np.sin(angle)]) * rng.uniform(1.1, 1.3, size=(36, 1))


def pixels(points, left):
    """Points of a panel as "column row", in whole pixels."""
    return [f"{u:.0f} {v:.0f}" for u, v in points * [SCALE, -SCALE] + [left, 146]]


def panel(left, result, words):
    """Both clouds, and a line for each entry of the plan that matters, as opaque as it is large."""
    start, end, arcs = pixels(x, left), pixels(y, left), result.plan_sparse()
    tenths = np.floor(10 * arcs.mass / arcs.mass.max())
    for tenth in range(1, 11):
        here = tenths == tenth
        lines = [f"M{start[i]}L{end[j]}" for i, j in zip(arcs.row[here], arcs.col[here], strict=True)]
        yield f'<path stroke="{GREY}" stroke-opacity="{tenth / 10}" d="{"".join(lines)}"/>'
    for points, colour in ((start, BLUE), (end, ORANGE)):
        dots = "".join(f"M{point}h0" for point in points)
        yield f'<path stroke="{colour}" stroke-width="8" stroke-linecap="round" d="{dots}"/>'
    yield f'<text x="{left}" y="{HEIGHT - 8}" fill="{GREY}">{words}</text>'


exact, entropic = otkit.solve_sample(x, y), otkit.solve_sample(x, y, reg=0.05)
picture = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
    'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="15" text-anchor="middle">',
    "<title>Two clouds of points with their optimal plan, and with an entropic one</title>",
    *panel(160, exact, "solve_sample(x, y)"),
    *panel(480, entropic, "solve_sample(x, y, reg=0.05)"),
    "</svg>\n",
]
print(f"⟨C, P⟩ = {float(exact.value_linear):.4f} without a reg, {float(entropic.value_linear):.4f} with reg=0.05")
if len(sys.argv) > 1:
    Path(sys.argv[1]).write_text("\n".join(picture), encoding="utf-8")
