"""What an iteration launches and reads, by the machine code, and the model that predicts its time."""

import json
import math
import os
import sys
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

from device import model  # noqa: E402
from device.compiled import Code, launches  # noqa: E402

END = ["differences", "decide", "combine", "advance"]
LAUNCHES = {
    1000: ["rows", "columns", *END],
    10_000: ["rows", "columns", *END],
    50_000: ["update_rows", "update_columns", *END],
}
# Bytes of costs that lie in memory, and the most that all threads load for an entry, with vectors from caches.
COST, BYTES = 4, {(1000, "rows"): 8, (10_000, "rows"): 5, (50_000, "update_rows"): 10, (50_000, "update_columns"): 10}
# The most bytes that all threads load for a column at the end of an iteration: with 32 moves and bends in float64, 512.
COLUMN = {"differences": 600, "combine": 800, "advance": 200}


@pytest.fixture(scope="module")
def made():
    """The launches of an iteration, by the number of points."""
    return {n: launches(model.enqueue(n), 90) for n in LAUNCHES}


def stream(launch):
    """The loop of a kernel that reads its data, and the entries of a trip."""
    args = launch.args
    loop = model.streaming(launch.code)
    entries = args["R"] * args["M"] if launch.code.name == "rows" else args["BM"] * args["BN"]
    return loop, entries


@pytest.mark.parametrize("n", LAUNCHES)
def test_launches_of_an_iteration(made, n):
    assert [launch.code.name for launch in made[n]] == LAUNCHES[n]


@pytest.mark.parametrize(("n", "kernel"), BYTES)
def test_every_pass_reads_an_entry_once(made, n, kernel):
    launch = next(launch for launch in made[n] if launch.code.name == kernel)
    loop, entries = stream(launch)
    assert COST <= loop.loaded * launch.code.threads / entries <= BYTES[n, kernel]
    height = launch.args["R"] if kernel == "rows" else launch.args["BM"]
    trips = math.ceil(n / (height * launch.programs))
    assert n <= trips * height * launch.programs < n + height * launch.programs


@pytest.mark.parametrize("kernel", COLUMN)
def test_the_end_of_an_iteration_reads_the_window_once(made, kernel):
    for n in LAUNCHES:
        launch = next(launch for launch in made[n] if launch.code.name == kernel)
        assert model.streaming(launch.code).loaded * launch.code.threads / launch.args["BLOCK"] <= COLUMN[kernel]
        assert launch.programs * launch.args["width"] >= n


@pytest.mark.parametrize("n", LAUNCHES)
def test_predictions_lie_between_the_limits_of_the_device(made, n):
    device = model.Device()
    passes = sum(name in ("rows", "update_rows", "update_columns") for name in LAUNCHES[n])
    copied = COST * n * n * passes / device.copy
    one = model.predicted(n, device)
    assert list(one.kernels) == LAUNCHES[n]
    assert copied <= sum(one.kernels.values()) < one.device_in_graph < one.device < 20 * copied + 1e-4
    assert 0 < one.share <= 1 / passes
    assert device.graph == one.host_in_graph < one.host < 5e-3
    for launch in made[n]:
        seconds = model.seconds(launch, n, device)
        assert 0 < seconds <= model.seconds(launch, n, replace(device, processors=66))
        assert seconds >= model.seconds(launch, n, replace(device, copy=2 * device.copy, clock=2 * device.clock))


def test_the_goals_hold_by_the_model():
    small, large = (model.predicted(n, model.Device()) for n in (1000, 10_000))
    assert large.share >= 0.6
    assert small.host_in_graph <= 60e-6


def code(*operations):
    """A kernel of one warp: instructions, each with its cycles, the counter that it sets and those that it awaits."""
    instructions, controls = {}, {}
    for k, (operation, cycles, sets, awaits) in enumerate(operations):
        instructions[16 * k] = operation
        controls[16 * k] = cycles | sets << 5 | 7 << 8 | awaits << 11
    return Code("made", 32, 32, 0, 0, instructions, controls)


def test_a_warp_waits_for_what_it_needs():
    load, add, wait = ("LDG.E R2", 1, 0, 0), ("FADD R3", 4, 7, 0), ("FADD R4", 4, 7, 1)
    assert model.chain(code(add, add)) == 8
    assert model.chain(code(load, add, wait)) == 280 + 4  # what does not wait is done meanwhile
    assert model.chain(code(load, load, wait)) == 4 + 280 + 4  # two loads, the unit of which takes 4 cycles for one
    assert model.busy(code(load, load, add)) == 8
    assert model.busy(code(add, add, add)) == 3


def test_loops_and_usual_branches():
    body = [("FADD R1", 1, 7, 0), ("BRA 0x40", 1, 7, 0), ("MUFU.EX2 R2", 1, 7, 0), ("FADD R2", 1, 7, 0)]
    made = code(*body, ("LDG.E.128 R4", 1, 7, 0), ("BRA 0x0", 1, 7, 0), ("EXIT", 1, 7, 0))
    (loop,) = made.innermost
    assert list(loop.instructions) == [0, 16, 32, 48, 64, 80]
    assert list(loop.usual.instructions) == [0, 16, 64, 80]
    assert loop.loaded == 16


def test_the_command(monkeypatch, tmp_path, capsys):
    path = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["model.py", "--json", str(path)])
    monkeypatch.setattr(model, "SIZES", (1000,))
    model.main()
    found = json.loads(path.read_text())
    assert [one["n"] for one in found["predictions"]] == [1000]
    assert found["device"]["name"] == "H200"
    assert "decide" in capsys.readouterr().out
