"""Where Triton's kernels run: on a GPU, or with ``TRITON_INTERPRET=1`` in its interpreter on the host."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))  # what reads the machine code

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
if INTERPRETED:  # a run that asks for the interpreter fails without it
    import torch  # noqa: F401
    import triton  # noqa: F401


def pytest_collection_modifyitems(items):
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device(monkeypatch):
    """The device of the tensors that kernels are given."""
    if INTERPRETED:
        monkeypatch.setenv("OTKIT_KERNELS", "triton")
        return "cpu"
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, or TRITON_INTERPRET=1 for Triton's interpreter")
    return "cuda"
