"""All pairs of many measures: time, memory, and how few pairs the nearest take."""

import numpy as np

import otkit


class Pairs:
    """Uniform clouds in the unit square, or on a line."""

    param_names = ["measures", "points", "dimension"]
    params = [[60, 1000], [5, 20, 100], [1, 2]]
    timeout = 300

    def setup(self, measures, points, dimension):
        if measures * points * dimension > 10_000:
            raise NotImplementedError("too large")
        self.clouds = list(np.random.default_rng(0).random((measures, points, dimension)))
        otkit.pairwise(self.clouds[:3])  # compiles

    def time_pairwise(self, measures, points, dimension):
        otkit.pairwise(self.clouds)

    def peakmem_pairwise(self, measures, points, dimension):
        otkit.pairwise(self.clouds)


class Neighbours:
    """The five nearest of clouds around centres that are spread as widely as the clouds, or four times as widely."""

    param_names = ["spread"]
    params = [[1, 4]]

    def setup(self, spread):
        rng = np.random.default_rng(0)
        self.clouds = [rng.normal(size=(20, 2)) + spread * rng.normal(size=2) for _ in range(300)]
        otkit.pairwise(self.clouds[:9], neighbours=5)

    def time_neighbours(self, spread):
        otkit.pairwise(self.clouds, neighbours=5)

    def track_solved(self, spread):
        found = otkit.pairwise(self.clouds, neighbours=5)
        return found.solved / found.pairs
