"""A model of an iteration of a sweep on a GPU that need not be there; run ``python benchmarks/device/model.py``.

Prints what it predicts for dense float32 costs in single precision, and where the time goes. ``--json FILE`` writes it.
How it predicts:

- The kernels of an iteration are compiled for the GPU. Their launches are recorded with their arguments, not run.
- A program takes its main loop as often as the arguments say. Branches of maxima, penalties and repairs are left out.
  A trip takes as long as one warp does in order, by the cycles and counters that the compiler encoded; or as long as
  the warps of a multiprocessor occupy its busiest unit. Programs beyond those that fit wait for these.
- No pass over the costs is faster than a copy of them.
- The start and the end of a kernel are a constant, as are the rates of the GPU. These are those of an H200.
- The host spends what Python and Triton take here on each launch, and a constant for the driver; or that of a graph.

Nothing of this has been compared with a measurement. Small problems, mostly sums of constants, are the least certain.
"""

import math
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from common import described, parser, save, timed
from compare.tables import heading, line
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from device.compiled import Absent, Code, Launch, launches
from otkit.entropic.anderson import WINDOW, Mixing
from otkit.entropic.dual import Penalties, Potentials
from otkit.geometry import Dense
from otkit.geometry.reduced import Reduced
from otkit.kernels.triton.launch import SINGLE
from otkit.kernels.triton.sweep import begin, iteration

SIZES, PACKAGES = (1000, 10_000, 50_000), ("otkit", "torch", "triton")


@dataclass(frozen=True)
class Device:
    """Rates of a GPU: bytes per second, cycles per second, seconds; sizes of a multiprocessor."""

    name: str = "H200"
    capability: int = 90
    processors: int = 132
    clock: float = 1.755e9
    copy: float = 4.3e12
    registers: int = 65_536
    threads: int = 2048
    shared: int = 227 * 1024
    launched: float = 3e-6  # start and end of a kernel, between two others
    in_graph: float = 2e-6  # the same in a graph
    driver: float = 8e-6  # of the host, for a launch
    graph: float = 12e-6  # of the host, for a graph


# The unit of a scheduler, a quarter of a multiprocessor, that an instruction occupies, for how many cycles, and cycles
# until its result is there. The first pattern that an instruction begins with applies.
TIMES = (
    (r"LDGSTS\S*\.128", "memory", 16, 30),
    (r"LDG\S*\.128", "memory", 16, 700),
    (r"LDGSTS", "memory", 4, 30),
    (r"LDG", "memory", 4, 280),  # vectors, which the cache of the device holds
    (r"(LDS|STS)\S*\.128", "memory", 16, 30),
    (r"LD|ST|SHFL|BAR", "memory", 4, 30),
    (r"MUFU|F2F|I2F|F2I", "special", 8, 30),
    (r"D(FMA|ADD|MUL|SETP)", "double", 2, 30),
    (r"H\w*MMA", "tensor", 8, 33),
    (r"", "other", 1, 30),
)


def timings(code: Code) -> list[tuple[str, int, int, int]]:
    """The unit, its cycles and those until the result, and the encoded control, of each instruction."""
    found = []
    for at, operation in code.instructions.items():
        _, *times = next(times for times in TIMES if re.match(times[0], operation))
        found.append((*times, code.controls[at]))
    return found


def chain(code: Code) -> int:
    """Cycles of one warp that is alone: instructions in order, each after what it awaits and when its unit is free."""
    now, ready, free = 0, [0] * 8, Counter()
    for unit, cycles, latency, control in timings(code):
        awaited, written, read = control >> 11 & 63, control >> 5 & 7, control >> 8 & 7
        now = max(now, free[unit], *(ready[k] for k in range(6) if awaited >> k & 1))
        free[unit] = now + cycles
        ready[written] = max(ready[written], now + latency)
        ready[read] = max(ready[read], now + min(latency, 20))
        now += max(1, control & 15)
    return now


def busy(code: Code) -> int:
    """Cycles of a scheduler for one warp, beside others: those of its busiest unit."""
    cycles = Counter({"issue": len(code.instructions)})
    for unit, occupied, _, _ in timings(code):
        cycles[unit] += occupied
    return max(cycles.values())


def resident(code: Code, device: Device) -> int:
    """Programs that fit on a multiprocessor."""
    registers = -(-code.registers // 8) * 8 * code.threads
    fits = device.registers // registers, device.threads // code.threads, device.shared // max(1, code.shared + 1024)
    return max(1, min(*fits, 32))


# How often a program takes its loop, and the bytes that it streams through each time: of n × n costs, by the arguments.


def _rows(args, n, programs):
    return math.ceil(n / (programs * args["R"])), 4 * args["R"] * args["M"]


def _tiles(args, n, programs):
    return math.ceil(n / args["BN"]), 4 * args["BM"] * args["BN"]


def _parts(args, n, programs):
    return math.ceil(args["parts"] / args["BN"]), 4 * args["BN"] * args["BM"]


def _bends(args, n, programs):
    return args["width"] // args["BLOCK"], 8 * args["s"].W.value * args["BLOCK"]


def _moves_and_bends(args, n, programs):
    trips, size = _bends(args, n, programs)
    return trips, 2 * size


def _vectors(args, n, programs):
    return args["width"] // args["BLOCK"], 8 * args["BLOCK"]


def _products(args, n, programs):
    return math.ceil(args["parts"] / args["AT_ONCE"]), 16 * args["s"].W.value * args["AT_ONCE"]


STREAMS = {
    "rows": _rows,
    "columns": _parts,
    "update_rows": _tiles,
    "update_columns": _tiles,
    "differences": _bends,
    "decide": _products,
    "combine": _moves_and_bends,
    "advance": _vectors,
}
# What follows the loop of these mends what fails, as a rule nothing.
MENDED = ("columns", "update_rows", "update_columns")
# Slots of the window that a loop of `decide` eliminates: each is one division.
ELIMINATED = "MUFU.RCP64H"


def streaming(code: Code) -> Code:
    """The loop of a kernel that streams through its data."""
    loops = [loop for loop in code.innermost if loop.loaded]
    if code.name in MENDED:
        return min(loops, key=lambda loop: min(loop.instructions))
    return max(loops, key=lambda loop: loop.loaded)


def cycles_of(launch: Launch, n: int, warps: float) -> float:
    """Cycles of a program beside others, where a scheduler has so many `warps`."""
    code, loop = launch.code, streaming(launch.code)
    trips, size = STREAMS[code.name](launch.args, n, launch.programs)
    unrolled = max(1, loop.widest * code.threads // size)
    cycles = math.ceil(trips / unrolled) * max(chain(loop.usual), warps * busy(loop.usual))
    if code.name == "decide":
        slots = next(loop for loop in code.innermost if loop.count(ELIMINATED) and loop.count("SHFL"))
        cycles += math.ceil(WINDOW / slots.count(ELIMINATED)) * chain(slots.usual)
    return cycles


def seconds(launch: Launch, n: int, device: Device) -> float:
    """Seconds of a launch for n × n costs between its start and its end."""
    beside = min(resident(launch.code, device), math.ceil(launch.programs / device.processors))
    rounds = math.ceil(launch.programs / (device.processors * beside))
    computed = rounds * cycles_of(launch, n, beside * launch.code.threads / 128) / device.clock
    read = 4 * n * n if launch.code.name in ("rows", "update_rows", "update_columns") else 0
    return max(computed, read / device.copy)


def enqueue(n: int):
    """A function that enqueues an iteration for n × n costs."""

    def full(value, *size):
        return torch.full((1, *size), value, dtype=torch.float64)

    zeros, log, one = full(0.0, n), full(-math.log(n), n), full(1.0)
    costs = Reduced(Dense(torch.empty((1, n, n), dtype=torch.float32)), zeros, zeros)  # memory that nobody touches
    start, exact = Potentials(zeros, zeros, log, log, one), one * math.inf
    mixing = Mixing.begin(zeros, one, WINDOW)
    state = begin(costs, start, Penalties(exact, exact), mixing, -exact, exact)
    return iteration(state, costs, 1, SINGLE)


def binding(call, device: Device, repeat: int = 30) -> float:
    """Seconds of the host for the launches of a call up to the driver, on this machine."""
    run = JITFunction.run

    def bind(kernel, *args, warmup, **options):
        run(kernel, *args, warmup=True, **options)

    with patch.object(JITFunction, "run", bind), patch.object(driver, "_active", Absent(device.capability)):
        call()
        return median(timed(call)[1] for _ in range(repeat))


@dataclass(frozen=True)
class Prediction:
    """An iteration for n × n costs: seconds of the device and the host, launched one by one or as a graph.

    ``kernels`` are the seconds of each kernel between its start and its end. ``share`` is the time of a copy of the
    costs over that of the device, with a graph.
    """

    n: int
    kernels: dict[str, float]
    device: float
    host: float
    device_in_graph: float
    host_in_graph: float
    share: float


def predicted(n: int, device: Device) -> Prediction:
    """The prediction for n × n costs."""
    once = enqueue(n)
    made = launches(once, device.capability)
    kernels = {launch.code.name: seconds(launch, n, device) for launch in made}
    running = sum(kernels.values())
    in_graph = running + len(made) * device.in_graph
    return Prediction(
        n=n,
        kernels=kernels,
        device=running + len(made) * device.launched,
        host=binding(once, device) + len(made) * device.driver,
        device_in_graph=in_graph,
        host_in_graph=device.graph,
        share=4 * n * n / device.copy / in_graph,
    )


def microseconds(value):
    return f"{1e6 * value:.0f}"


def main():
    args, device = parser(__doc__).parse_args(), Device()
    found = described(args, *PACKAGES) | {"device": asdict(device), "predictions": []}
    heading("n, device: µs, host: µs, device in a graph: µs, host: µs, share of the copy, kernels: µs")
    for n in SIZES:
        one = predicted(n, device)
        found["predictions"].append(asdict(one))
        times = (one.device, one.host, one.device_in_graph, one.host_in_graph)
        kernels = ", ".join(f"{name} {microseconds(value)}" for name, value in one.kernels.items())
        line(n, *map(microseconds, times), f"{one.share:.2f}", kernels)
        save(args.json, found)


if __name__ == "__main__":
    main()
