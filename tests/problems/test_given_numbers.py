"""Numbers of the caller: none, empty ones, and those that are not whole."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import otkit
import otkit.pot

C = np.random.default_rng(0).random((6, 7))
CLOUDS = [np.zeros((2, 2)), np.ones((2, 2))]
CASES = {
    "reg must not be empty": lambda: otkit.solve(C, reg=[]),
    "unbalanced must not be empty": lambda: otkit.solve(C, unbalanced=[]),
    "mass must not be empty": lambda: otkit.solve(C, mass=[]),
    "reg must be a number or an array of numbers, got None": lambda: otkit.sinkhorn_divergence(C, C, reg=None),
    "unbalanced must hold numbers, got": lambda: otkit.solve(C, reg=0.1, unbalanced=(1.0, None)),
    "init f must be a number or an array": lambda: otkit.solve(C, reg=0.1, init=(None, np.zeros(7))),
    "of M, not all 0, got shape": lambda: otkit.pot.solve(C, reg=0.1, c=np.zeros(C.shape)),
    "stopThr must be a positive number": lambda: otkit.pot.sinkhorn(None, None, C, 0.1, stopThr=-1.0),
    "got the class ProcessPoolExecutor": lambda: otkit.pairwise(CLOUDS, executor=ProcessPoolExecutor),
    "executor must be an executor": lambda: otkit.pairwise(CLOUDS, executor=3),
    "workers must be a whole number": lambda: otkit.pairwise(CLOUDS, workers=1.5),
    "max_iter must be a whole number": lambda: otkit.pairwise(CLOUDS, max_iter=1.5),
}


@pytest.mark.parametrize("words", CASES)
def test_numbers_that_are_none_are_refused_by_name(words):
    with pytest.raises((TypeError, ValueError), match=words):
        CASES[words]()


def test_a_point_that_no_arc_reaches_stays_with_a_smaller_mass():
    costs = C.copy()
    costs[2] = np.inf
    with pytest.raises(ValueError, match="or let it stay empty by a smaller mass"):
        otkit.solve(costs, mass=1.0)
    assert otkit.solve(costs, mass=0.5).converged
