"""Fixtures shared by all tests."""

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("otkit", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("otkit")


def _libraries():
    import array_api_strict

    yield pytest.param(array_api_strict, id="array_api_strict")
    import array_api_compat.torch

    yield pytest.param(array_api_compat.torch, id="torch")


@pytest.fixture(params=list(_libraries()))
def xp(request):
    """An array library that is not NumPy."""
    return request.param


@pytest.fixture(params=[pytest.param(np, id="numpy"), *_libraries()])
def any_xp(request):
    """An array library."""
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)
