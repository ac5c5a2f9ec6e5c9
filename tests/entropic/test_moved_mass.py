"""The iteration of partial transport: the price of its mass, and its fixed point."""

import numpy as np
import pytest

from otkit.entropic.partial import iterate, level
from otkit.geometry.dense import Dense


@pytest.mark.parametrize("start", [-1e3, 0.0, 3.0, 1e3])
def test_the_level_fills_the_mass_from_any_start(start):
    rng = np.random.default_rng(0)
    rates, caps = 10 * rng.normal(size=(5, 30)), rng.random((5, 30))
    caps[:, :3] = 0
    with np.errstate(divide="ignore"):
        log_caps = np.log(caps)
    for share in (1e-9, 0.3, 0.999, 1.0):
        mass = share * caps.sum(-1)
        x = level(rates, log_caps, mass, np.full(5, start))
        np.testing.assert_allclose(np.minimum(caps, np.exp(x[:, None] + rates)).sum(-1), mass, rtol=1e-12)
    full = (log_caps - rates)[:, 3:].max(-1)
    np.testing.assert_array_equal(level(rates, log_caps, 2 * caps.sum(-1), np.full(5, start)), full)


def test_columns_and_mass_fit_after_each_iteration_and_the_error_is_that_of_the_rows():
    rng = np.random.default_rng(1)
    C, a, b = rng.random((1, 6, 5)), rng.dirichlet(np.ones(6))[None], 2 * rng.dirichlet(np.ones(5))[None]
    f, price, reg, mass = np.zeros((1, 6)), np.zeros(1), np.array([0.05]), np.array([0.8])
    errors = []
    for _ in range(60):
        new = iterate(Dense(C), f, price, (np.log(a), np.log(b)), mass, reg)
        plan = (a[:, :, None] * b[:, None, :] * np.exp((f[:, :, None] + new.g[:, None, :] - C) / reg))[0]
        assert (plan.sum(0) <= b[0] + 1e-14).all()
        assert plan.sum() == pytest.approx(0.8, rel=1e-12)
        assert (plan.sum(1) - a[0]).max() <= 0.8 * new.error[0] + 1e-14
        f, price = new.f, new.price
        errors.append(new.error[0])
    assert errors[-1] < 1e-12
    lacking = (f + reg * np.log(a) >= 0)[0]  # rows that are not full pay the price alone
    assert lacking.any()
    assert not lacking.all()
    np.testing.assert_allclose(plan.sum(1)[~lacking], a[0, ~lacking], rtol=1e-10)
