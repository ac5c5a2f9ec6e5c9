"""The benchmark for GPUs, as it can be tried without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "device" / "gpu.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the run without the interpreter has it")
def test_it_goes_through_everything_in_a_rehearsal(tmp_path):
    path = tmp_path / "found.json"
    ended = run("--rehearse", "--json", str(path))
    assert ended.returncode == 0, ended.stderr
    assert "times mean nothing" in ended.stdout
    found = json.loads(path.read_text())
    assert found["kernels"] == "triton"
    names = {row["operation"] for row in found["operations"]}
    assert {"softmin", "marginals", "transport_cost", "plan", "apply_plan", "c_transform", "select"} <= names
    assert {f"sweep iteration, {form}" for form in ("single", "mixed", "double")} <= names
    assert all(row["seconds"] > 0 for row in found["operations"])
    assert {(row["call"], row["dtype"]) for row in found["batches"]} == {
        (call, dtype) for call in ("sweep", "solve") for dtype in ("float32", "float64")
    }
    mine = [row for row in found["solves"] if row["solver"] == "otkit"]
    assert len(mine) == 4
    assert all(row["status"] == "ok" for row in mine), mine
    assert [row["met"] for row in found["predictions"]] == [None] * 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_before_any_work():
    ended = run()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "needs a GPU" in ended.stderr
