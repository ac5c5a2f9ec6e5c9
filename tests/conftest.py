"""Fixtures shared by all tests."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("otkit", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("otkit")

HAS_TORCH = find_spec("torch") is not None
# Without PyTorch there is nothing to test in these.
_OF_TORCH = ["losses/*", "autograd/test_gradients.py", "autograd/test_torch.py", "kernels/triton/*", "compiled.py"]
# kernels/ is on the path of what is imported there: without Triton its folder of that name would be taken for it.
if find_spec("triton") is None:
    sys.modules["triton"] = None
collect_ignore_glob = [] if HAS_TORCH else _OF_TORCH


def _libraries():
    import array_api_strict

    yield pytest.param(array_api_strict, id="array_api_strict")
    if HAS_TORCH:
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
