"""Matchings of a batch beside the loop of DETR's matcher, in ms; run ``python benchmarks/losses/matching.py``.

Calls take turns. The loop calls SciPy for each item, and makes tensors of what it returns.
"""

import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import in_turns, parser, timed

from otkit.losses import match

SHAPES = ((8, 100, 20), (64, 100, 10), (32, 300, 30), (16, 900, 40), (32, 100, 100), (8, 900, 300))


def main():
    parser(__doc__).parse_args()
    rng = np.random.default_rng(0)
    print("| batch | queries | targets, at most | otkit | SciPy | ratio |\n|---|---|---|---|---|---|")
    for batch, queries, most in SHAPES:
        sizes = rng.integers(1, most + 1, batch).tolist()
        C = torch.from_numpy(rng.normal(size=(batch, queries, sum(sizes))))
        calls = {
            "otkit": lambda C=C, sizes=sizes: timed(lambda: match(C, sizes)),
            "SciPy": lambda C=C, sizes=sizes: timed(
                lambda: [
                    tuple(map(torch.as_tensor, linear_sum_assignment(part[k])))
                    for k, part in enumerate(C.split(sizes, -1))
                ]
            ),
        }
        totals = [
            sum(float(C.split(sizes, -1)[k][k][pair].sum()) for k, pair in enumerate(call()[0]))
            for call in calls.values()
        ]
        assert abs(totals[0] - totals[1]) <= 1e-9 * abs(totals[1])
        ours, theirs = (1e3 * median(seconds for _, seconds in found) for found in in_turns(calls, 3, 0.5).values())
        print(f"| {batch} | {queries} | {most} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} |")


if __name__ == "__main__":
    main()
