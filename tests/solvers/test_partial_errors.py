"""Errors of entropic partial transport, relative to the mass that moves."""

import numpy as np
import pytest

import otkit


@pytest.mark.parametrize("s", [0.5, 1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("size", [(6, 5), (150, 130)], ids=str)
def test_the_error_with_a_reg_is_relative_to_the_mass_that_moves(s, size, rng):
    C = rng.random(size)
    result = otkit.solve(C, reg=0.1, mass=s)
    assert result.converged
    assert result.error <= result.tol <= max(1.001e-6, 2e-12 / s)
    assert abs(result.plan.sum() - s) <= 1.01 * result.error * s + 1e-15 * s
    assert all(stage.error <= 1 or stage is not result.stages[-1] for stage in result.stages)


def test_items_of_a_batch_have_errors_relative_to_their_masses(rng):
    C, s = rng.random((6, 5)), np.array([0.3, 1e-4])
    result = otkit.solve(C, reg=[0.1, 0.01], mass=s)
    assert (result.error <= result.tol).all()
    assert (abs(result.plan.sum((1, 2)) - s) <= 1.01 * result.error * s).all()


def test_a_mass_below_rounding_is_refused(rng):
    C = rng.random((6, 5))
    with pytest.raises(ValueError, match=r"mass must be above 1\.44e-12 with this reg"):
        otkit.solve(C, reg=0.1, mass=1e-15)
    assert otkit.solve(C, mass=1e-15).plan.sum() == pytest.approx(1e-15, rel=1e-12)
    with pytest.raises(ValueError, match="tol must be a positive number"):
        otkit.solve(C, reg=0.1, mass=0.5, tol=-1.0)
