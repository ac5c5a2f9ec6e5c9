"""The benchmark for GPUs, as it can be tried without one."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "device" / "gpu.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
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
    assert all(row["status"] == "ok" and row["seconds"] > 0 for row in found["operations"] + found["batches"])
    assert {(row["call"], row["dtype"]) for row in found["batches"]} == {
        (call, dtype) for call in ("sweep", "solve") for dtype in ("float32", "float64")
    }
    (row,) = found["split"]
    assert (row["status"], row["graph"], row["kernels"]) == ("ok", None, {})  # those are of a GPU
    assert min(row["one by one"].values()) > 0
    mine = [row for row in found["solves"] if row["solver"] == "otkit"]
    assert len(mine) == 4
    assert all(row["status"] == "ok" for row in mine), mine
    assert [row["met"] for row in found["predictions"]] == [None] * 3
    assert not [name for name in found if "status" in name]  # every part ended well


@pytest.fixture
def measuring(monkeypatch):
    """The module of the operations, on tensors of the host."""
    monkeypatch.syspath_prepend(str(BENCHMARK.parents[1]))
    return importlib.import_module("device.operations")


def raised():
    raise RuntimeError("an illegal memory access was encountered")


def test_a_kernel_that_raises_leaves_a_row_with_its_error(measuring, monkeypatch):
    calls = [measuring.Operation("bad", raised), measuring.Operation("good", lambda: None)]
    monkeypatch.setattr(measuring, "operations", lambda problem: calls)
    sizes = SimpleNamespace(points=(5,), dims=(), warm=0, batch=(2, 3, 4))

    def clock(call):
        call()
        return 1.0

    rows = list(measuring.measure_operations("cpu", clock, sizes, {"copy, B/s": 1.0}))
    assert [row["operation"] for row in rows] == ["bad", "good"] * 2  # of two dtypes
    assert rows[0]["status"] == rows[2]["status"] == "failed: RuntimeError: an illegal memory access was encountered"
    assert rows[1]["status"] == "ok"
    monkeypatch.setattr(measuring, "operations", lambda problem: raised())
    rows = measuring.measure_operations("cpu", clock, sizes, {})
    assert all(row["status"].startswith("failed: RuntimeError") for row in rows)
    monkeypatch.setattr(measuring, "swept", lambda *_: raised)
    rows = {(row["call"], row["dtype"]): row["status"] for row in measuring.measure_batches("cpu", clock, sizes)}
    assert rows["sweep", "float32"].startswith("failed: RuntimeError")


def test_every_row_is_written_when_it_is_measured(measuring, monkeypatch, tmp_path):
    """A run that ends early keeps its rows."""
    gpu, path, seen = importlib.import_module("device.gpu"), tmp_path / "found.json", []

    def rows(*_):
        for name in "ab":
            yield {"call": name, "problem": "", "dtype": "", "status": "ok", "seconds": 1.0}
            seen.append([row["call"] for row in json.loads(path.read_text())["batches"]])
        raise RuntimeError("an illegal memory access was encountered")

    path.write_text("{}")
    monkeypatch.setattr(measuring, "measure_batches", rows)
    with pytest.raises(RuntimeError, match="illegal"):
        gpu.measure("cpu", gpu.REHEARSAL, str(path), "batches")
    assert seen == [["a"], ["a", "b"]]


def test_a_part_that_ends_early_leaves_the_others(measuring, monkeypatch, tmp_path):
    gpu, path, called = importlib.import_module("device.gpu"), tmp_path / "found.json", []

    def ended(command):
        called.append(command[command.index("--part") + 1])
        return SimpleNamespace(returncode=134 if called[-1] == "operations" else 0)

    monkeypatch.setattr(gpu.subprocess, "run", ended)
    monkeypatch.setattr(gpu, "about", lambda *_: {"device": "none", "versions": {}, "kernels": "triton"})
    args = SimpleNamespace(quick=True, rehearse=False)
    gpu.measure_all("cpu", gpu.REHEARSAL, args, str(path))
    assert called == list(gpu.PARTS)
    found = json.loads(path.read_text())
    assert {name: found[name] for name in found if "status" in name} == {"operations, status": 134}
    assert [row["met"] for row in found["predictions"]] == [None] * 3


def test_iterations_that_are_none_are_not_measured(measuring):
    """Iterations after the end, or those that have to be repeated, take less time than others."""
    endless = object.__new__(measuring.Endless)
    endless.once, endless.calls = (lambda: None), 0
    endless.state = SimpleNamespace(count=torch.tensor([4.0]))
    clock = lambda call: [call() for _ in range(2)] and 1.0  # noqa: E731
    assert measuring.seconds_of(clock, 2, endless) == 1.0
    with pytest.raises(RuntimeError, match="8 calls must be as many iterations, got 4"):
        measuring.seconds_of(clock, 2, endless)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_before_any_work():
    ended = run()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "needs a GPU" in ended.stderr
