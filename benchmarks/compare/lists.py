"""A list of clouds of unequal sizes beside one batch of padded ones; run ``python benchmarks/compare/lists.py``.

Prints a Markdown table with medians of the times of ``otkit.solve_sample`` on 64 pairs of clouds of 10 to 500 points,
or as ``--pairs``, ``--smallest`` and ``--largest`` say: as two lists, and as two batches padded to the largest, whose
points beyond a cloud have no weight. They take turns in one process. The batches are padded before. Memory is the peak
that Python counts during a call with its result, relative to that of one matrix of costs for each pair, of its own
size. The last column is the largest difference of the values.
"""

import sys
import tracemalloc
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, save, timed

from compare.tables import heading, human, line

TITLES = "problem, list, padded, padded / list, memory of the list, memory padded, difference"
CALLS = {
    "exact": {},
    "reg 0.1": {"reg": 0.1},
    "exact, Euclidean": {"metric": "euclidean"},
    "reg 0.01, Euclidean": {"metric": "euclidean", "reg": 0.01},
}


def clouds(rng, pairs, smallest, largest):
    """The pairs: points and equal weights of both sides, as lists."""
    sizes = rng.integers(smallest, largest + 1, (pairs, 2))
    points = [[rng.random((n, 2)) for n in side] for side in sizes.T]
    return points, [[np.full(len(x), 1 / len(x)) for x in side] for side in points]


def padded(arrays, largest):
    """The arrays in one, with zeros after each."""
    out = np.zeros((len(arrays), largest, *arrays[0].shape[1:]))
    for k, array in enumerate(arrays):
        out[k, : len(array)] = array
    return out


def solve(measures, options):
    import otkit

    found = otkit.solve_sample(*measures, **options)
    return np.array([float(r.value) for r in found]) if isinstance(found, list) else found.value


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main():
    options = parser(__doc__)
    for name, usual in (("rounds", 5), ("pairs", 64), ("smallest", 10), ("largest", 500)):
        options.add_argument(f"--{name}", type=int, default=usual)
    args = options.parse_args()
    points, weights = clouds(np.random.default_rng(0), args.pairs, args.smallest, args.largest)
    listed, batch = (*points, *weights), tuple(padded(v, args.largest) for v in (*points, *weights))
    needed = sum(8 * len(x) * len(y) for x, y in zip(*points, strict=True))
    heading(TITLES)
    rows = []
    for name, asked in CALLS.items():
        calls = {"list": partial(solve, listed, asked), "padded": partial(solve, batch, asked)}
        for call in calls.values():
            call()  # compiles
        memory = {key: peak(call) / needed for key, call in calls.items()}
        found = in_turns({key: partial(timed, call) for key, call in calls.items()}, args.rounds)
        times = {key: median(seconds for _, seconds in runs) for key, runs in found.items()}
        apart = float(abs(found["list"][0][0] - found["padded"][0][0]).max())
        rows.append({"problem": name, "times": times, "memory": memory, "difference": apart})
        shown = (f"{memory[key]:.2f}" for key in calls)
        line(name, *map(human, times.values()), f"{times['padded'] / times['list']:.1f}", *shown, f"{apart:.0e}")
    save(args.json, described(args, "otkit", "numpy", "numba") | {"rows": rows})


if __name__ == "__main__":
    main()
