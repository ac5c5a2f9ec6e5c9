"""Versions of otkit and of what it uses."""

from __future__ import annotations

import argparse
import sys

import otkit

_REQUIRED = ["numpy", "scipy", "numba", "array-api-compat", "pillow", "tqdm"]
_OPTIONAL = ["torch", "triton", "cupy", "matplotlib", "h5py", "pyarrow"]


def info(_: argparse.Namespace) -> int:
    """Print the versions of otkit and its dependencies, and what kernels run what."""
    from importlib.metadata import PackageNotFoundError, version

    print(f"otkit {otkit.__version__}, Python {sys.version.split()[0]} on {sys.platform}")
    for package in _REQUIRED + _OPTIONAL:
        try:
            print(f"{package} {version(package)}")
        except PackageNotFoundError:
            print(f"{package} is not installed")
    for arrays, kernels in _kernels():
        print(f"{arrays}: {kernels}")
    return 0


def _kernels() -> list[tuple[str, str]]:
    """Names of the kernels for each kind of input, with the reason where they are the reference."""
    from otkit.kernels import lacking

    missing = lacking("torch", "triton")
    gpu = f"reference, on the device, since {missing} is not installed" if missing else "triton (untested on hardware)"
    return [
        ("arrays of the host", "numba"),
        ("CUDA tensors", gpu),
        ("CuPy arrays", gpu),
        ("metrics that are functions, of tensors or CuPy arrays", "reference, on the device of the input"),
        ("exact plans", "network simplex on the host"),
    ]
