"""The tests of this folder on a machine with few packages, as one with a GPU may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Runs pytest as if these were not installed.
BARE = """
import sys
from importlib.machinery import PathFinder

import pytest

absent, find = {"ot", "hypothesis", "array_api_strict", "jax", "pandas", "sklearn"}, PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.split(".")[0] in absent else find(name, *rest))
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the run without the interpreter has it")
def test_what_runs_on_a_gpu_is_collected_without_other_packages():
    command = [
        sys.executable,
        "-c",
        BARE,
        "--collect-only",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).parent),
    ]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for module in ("operations", "sweep", "cg"):
        assert f"test_triton_{module}.py::" in ended.stdout
