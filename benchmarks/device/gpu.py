"""otkit on a GPU, beside the ceilings of the GPU and beside other libraries; run ``python benchmarks/device/gpu.py``.

Prints Markdown tables. ``--json FILE`` writes every measurement. How it measures:

- Ceilings are measured first: a copy, exponentials, float64 additions, products of matrices.
- An operation states the bytes, exponentials and float64 additions per entry that it cannot do without. The ceilings
  turn these into the least time. The fraction is that time over the one measured, the median of several by the clock of
  the device. Problems that the cache of the device holds may be above 1.
- An iteration of a sweep is enqueued alone, with nothing that ends the sweep, after as many that fill the window of its
  mixing. The device counts the iterations, which must be as many as the calls.
- Such iterations are also split: the time of the host and of the device, launched one by one and as a CUDA graph, and
  that of each kernel. ``device/model.py`` predicts these.
- Solves are timed by the clock of the host, from call to answer. Their true error ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ is recomputed
  in float64. The stopping rule of every library is tightened until that error is at most ACCEPT. The loosest setting
  tried that reaches it is timed. A dense problem ends with the plan, one of points with the potentials.
- The last table compares with what was predicted before anything was measured.

Each part is a process, since a failure may leave the device unusable to its process; ``--part`` runs one. A measurement
that fails leaves a row with its error. ``--json`` is written after every row.

Without a GPU it does nothing. ``--rehearse`` runs the same code at tiny sizes in Triton's interpreter: this shows only
that it runs, and its times mean nothing.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, parser, save, timed
from compare.tables import heading, line

DELAY = 4_000_000  # cycles that the device waits, so that the host is ahead of it when the clock starts
PACKAGES = ("otkit", "torch", "triton", "numpy", "pot", "geomloss", "pykeops", "flash-sinkhorn", "curegot")


@dataclass(frozen=True)
class Sizes:
    points: tuple = (1000, 4096, 10_000, 32_768)
    dims: tuple = (3, 16, 64)
    solved: tuple = (1000, 4096, 10_000)
    regs: tuple = (1e-2, 1e-3)
    warm: int = 40  # iterations of a sweep before the one that is timed
    batch: tuple = (100_000, 32, 50)  # problems, points, iterations
    repeat: int = 20
    small: bool = False


QUICK = Sizes(points=(1000, 10_000), dims=(3, 64), solved=(1000,), repeat=5)
REHEARSAL = Sizes((24,), (3,), (12,), (0.3,), 1, (3, 8, 4), repeat=1, small=True)


@dataclass(frozen=True)
class Clock:
    """Seconds of a call on a device, the median of `repeat` after warming up."""

    device: str
    repeat: int

    def __call__(self, call):
        """By the clock of the device. Work of the host is hidden as long as the device has something to do."""
        import torch

        if self.device == "cpu":
            return self.wall(call)
        call()
        times = []
        for _ in range(self.repeat):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(DELAY)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return median(times)

    def wall(self, call):
        """From the call to when the device is done, by the clock of the host."""
        if self.device != "cpu":  # times of a rehearsal mean nothing
            call()
        return median(self.once(call)[1] for _ in range(self.repeat))

    def once(self, call):
        """The answer of a call, and its time."""

        def finished():
            answer = call()
            self.wait()
            return answer

        self.wait()
        return timed(finished)

    def wait(self):
        import torch

        if self.device != "cpu":
            torch.cuda.synchronize()


# Predictions


def sweep_row(found, form):
    """The measured iteration of a sweep in a form, over dense costs in float32 at n = 10,000."""
    wanted = {"operation": f"sweep iteration, {form}", "dtype": "float32", "d": None, "n": 10_000}
    return next((row for row in found.get("operations", []) if wanted.items() <= row.items()), {})


def predictions(found, sizes):
    """What was predicted before anything was measured, and what was measured."""
    single, mixed = sweep_row(found, "single"), sweep_row(found, "mixed")
    slower = mixed["seconds"] / single["seconds"] if mixed.get("seconds") and single.get("seconds") else None
    batch = next((row.get("seconds") for row in found.get("batches", []) if row["call"] == "sweep"), None)
    full = batch if sizes.batch == Sizes().batch else None
    for what, value, bound, holds in (
        ("sweep at n = 10,000, share of the copy", single.get("fraction"), "≥ 0.75", lambda v: v >= 0.75),
        ("sweep with float64 differences, over single", slower, "≤ 1.3", lambda v: v <= 1.3),
        ("100,000 problems of 32×32, 50 iterations, s", full, "< 0.005", lambda v: v < 0.005),
    ):
        met = None if value is None else bool(holds(value))
        yield {"prediction": what, "measured": value, "bound": bound, "met": met}


# What is printed


def number(value, digits=3):
    return "–" if value is None else f"{value:.{digits}g}"


def table(titles, rows, cells, keep):
    """Print and keep the rows of a Markdown table while they are measured."""
    print()
    heading(titles)
    kept = []
    for row in rows:
        line(*cells(row))
        kept.append(row)
        keep(kept)


def kind(row):
    return f"{row['dtype']}, " + (f"points, d = {row['d']}" if row["d"] else "dense")


def operation_cells(row):
    what = row["operation"], kind(row), row["n"]
    if row["status"] != "ok":
        return *what, row["status"], *["–"] * 4
    unit = "GB/s" if row["bytes"] else "G entries/s"
    rate = f"{row['rate'] / 1e9:.4g} {unit}"
    milliseconds = number(1e3 * row["seconds"])
    return *what, milliseconds, row["bytes"], row["exponentials"], rate, number(row["fraction"], 2)


def split_cells(row):
    if row["status"] != "ok":
        return row["n"], row["status"], *["–"] * 4
    times = [
        value for way in ("one by one", "graph") for value in (row[way] or {"host": None, "device": None}).values()
    ]
    each = [f"{name} {number(1e6 * seconds)}" for name, seconds in row["kernels"].items()]
    return row["n"], *(number(value and 1e6 * value) for value in times), ", ".join(each) or "–"


def solve_cells(row):
    seconds = number(1e3 * row["seconds"]) if "seconds" in row else row["status"]
    return row["solver"], kind(row), row["n"], row["reg"], seconds, number(row.get("error"), 1), row.get("setting", "–")


def batch_cells(row):
    seconds = number(1e3 * row["seconds"]) if row["status"] == "ok" else row["status"]
    return row["call"], row["problem"], row["dtype"], seconds


def prediction_cells(row):
    verdict = {None: "not measured", True: "yes", False: "no"}[row["met"]]
    return row["prediction"], row["bound"], number(row["measured"]), verdict


def about(device, args):
    import torch

    from otkit.geometry import Dense
    from otkit.kernels import choose

    found = described(args, *PACKAGES)
    found["kernels"] = choose(Dense(torch.zeros((1, 1), device=device))).name
    found["versions"]["cuda"] = torch.version.cuda
    if device == "cpu":
        return found | {"device": "Triton's interpreter on the host: no time means anything"}
    properties = torch.cuda.get_device_properties(0)
    capability = f"sm_{properties.major}{properties.minor}"
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return found | {"device": f"{properties.name}, {capability}, {properties.multi_processor_count} SMs, {memory}"}


PARTS = ("ceilings", "operations", "split", "batches", "solves")


def measure(device, sizes, path, part):
    """Measure a part, and add it to the results of the others."""
    from device.ceilings import measured
    from device.operations import measure_batches, measure_operations
    from device.solves import measure_solves
    from device.split import measure_split

    clock, found = Clock(device, sizes.repeat), json.loads(Path(path).read_text())

    def keep(rows):
        found[part] = rows
        save(path, found)  # after every row, so that little is lost where a later one fails

    if part == "ceilings":
        keep(measured(device, clock, sizes.small))
        return table("ceiling, rate", found[part].items(), lambda row: (row[0], f"{row[1]:.4g}"), lambda rows: None)
    if part == "operations":
        rows = measure_operations(device, clock, sizes, found["ceilings"])
        titles = "operation, costs, n, ms, bytes/entry, exponential, rate, fraction"
        return table(titles, rows, operation_cells, keep)
    if part == "split":
        titles = "n, iteration on the host: µs, device: µs, in a graph on the host: µs, device: µs, kernels: µs"
        return table(titles, measure_split(device, clock, sizes), split_cells, keep)
    if part == "batches":
        return table("call, batch, dtype, ms", measure_batches(device, clock, sizes), batch_cells, keep)
    rows = measure_solves(device, clock, sizes)
    return table("solver, costs, n, reg, ms, error, setting", rows, solve_cells, keep)


def measure_all(device, sizes, args, path):
    """Measure every part in a process of its own, and compare with the predictions."""
    found = about(device, args)
    save(path, found)
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    print(found["device"], versions, f"otkit's operations: {found['kernels']}", sep="\n\n", flush=True)
    for part in PARTS:
        options = [name for name in ("--quick", "--rehearse") if getattr(args, name[2:])]
        status = subprocess.run([sys.executable, __file__, *options, "--json", path, "--part", part]).returncode
        if status:
            print(f"\n{part}: ended with status {status}", flush=True)
            save(path, json.loads(Path(path).read_text()) | {f"{part}, status": status})
    found = json.loads(Path(path).read_text())

    def keep(rows):
        save(path, found | {"predictions": rows})

    table("prediction, bound, measured, met", predictions(found, sizes), prediction_cells, keep)


def arguments():
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    options.add_argument("--rehearse", action="store_true", help="tiny sizes in Triton's interpreter, on the host")
    options.add_argument("--part", choices=PARTS, help="only this part, added to the file of --json")
    return options.parse_args()


def main():
    args = arguments()
    device, sizes = "cuda", QUICK if args.quick else Sizes()
    if args.rehearse:
        os.environ.update(TRITON_INTERPRET="1", OTKIT_KERNELS="triton")  # before Triton is imported
        device, sizes = "cpu", REHEARSAL
    else:
        import torch

        if not torch.cuda.is_available():
            print(f"{Path(__file__).name} needs a GPU that PyTorch can use; --rehearse does without.", file=sys.stderr)
            return 2
    if args.part:
        return measure(device, sizes, args.json, args.part)
    if args.rehearse:
        print("A rehearsal: its times mean nothing.\n")
    with TemporaryDirectory() as folder:
        return measure_all(device, sizes, args, args.json or str(Path(folder) / "found.json"))


if __name__ == "__main__":
    sys.exit(main())
