"""Problems to measure, and a process for every library that measures them."""

import multiprocessing
import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import median

import numpy as np
from common import cores, timed
from suite.problems import costs

WAIT = 120  # seconds for a process to start, import and compile


@dataclass(frozen=True)
class Row:
    """A problem: one "plan", a "batch" of 1000, or "calls" of 100 iterations each, whatever the error."""

    problem: str
    n: int
    reg: float
    dtype: str
    tol: float
    accept: float
    kind: str = "plan"
    file: str | None = None

    def build(self):
        if self.kind == "plan":
            return [x.astype(self.dtype) for x in costs(self.problem, self.n, self.file)]
        C = np.random.default_rng(0).random((1000, self.n, self.n) if self.kind == "batch" else (self.n, self.n))
        return C, np.full(C.shape[:-1], 1 / self.n), np.full(C.shape[:-1], 1 / self.n)


# In the process of a library


# In the process of a library


def serve(connection, dtype):
    """Answer jobs until the connection ends."""
    os.environ["JAX_ENABLE_X64"] = str(dtype == "float64")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some libraries greet
    warnings.simplefilter("ignore")
    while True:
        try:
            connection.send(measure(*connection.recv()))
        except EOFError:
            return
        except Exception as error:
            connection.send({"status": f"failed: {type(error).__name__}: {error}"[:60]})


@cache
def prepared(config):
    """How to convert an input, and the solver; made, and so imported, once."""
    return config.make()


@lru_cache(maxsize=1)
def built(row):
    """The arrays of the last problem, which several configurations share."""
    return row.build()


def measure(row, config, setting):
    """The record of one call. A short call is repeated, and its time is the median."""
    C, a, b = built(row)
    convert, solve = prepared(config)
    native = [convert(x) for x in (C, a, b)]

    def call():
        answer = solve(*native, row, setting)
        return answer, np.asarray(getattr(answer, "plan", answer))

    times = []
    while sum(times) < 0.1 or (len(times) < 3 and sum(times) < 1):
        (answer, plan), seconds = timed(call)
        times.append(seconds)
    plan = plan.astype(float)
    record = {"status": "ok" if np.isfinite(plan).all() else "failed: not finite", "setting": setting}
    record |= {"seconds": median(times), "first": times[0], "threads": threads(), "cost": float((plan * C).sum())}
    record["error"] = float((abs(plan.sum(-1) - a).sum(-1) + abs(plan.sum(-2) - b).sum(-1)).max())
    record |= {"size": "×".join(map(str, C.shape)), "kernel": getattr(answer, "kernel", "–")}
    return record | {"iterations": int(np.max(getattr(answer, "n_iter", 0)))}


def threads():
    """The number of threads in each pool of this process."""
    from threadpoolctl import threadpool_info

    found = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
    found |= {name: sys.modules[name].get_num_threads() for name in ("torch", "numba") if name in sys.modules}
    found |= {"XLA": cores()} if "jax" in sys.modules else {}
    return ", ".join(f"{name} {count}" for name, count in found.items())


# In the process that asks


class Pool:
    """A process for every library, in one dtype."""

    def __init__(self, dtype, limit):
        self.dtype, self.limit, self.workers, self.first = dtype, limit, {}, {}

    @property
    def late(self):
        """The status of a call that took longer than the limit."""
        return f"> {self.limit:.3g}"

    def measure(self, row, config, setting):
        """The record of a configuration at a setting. The first call, which may compile, is not counted."""
        key = config.library, config, row
        if key not in self.first:
            loose = {"threshold": 1e9, "iterations": 1, "nothing": None}[config.knob]
            self.first[key] = self._ask((row, config, loose), self.limit + WAIT)
        if config.knob == "nothing" and self.first[key]["status"] != "ok":
            return self.first[key]
        first = self.first[key].get("first")
        reply = self._ask((row, config, setting), self.limit + 1)
        return reply | {"first": first} | ({"status": self.late} if reply.get("seconds", 0) > self.limit else {})

    def _ask(self, job, patience):
        """What the process of a library answers; it is started where needed, and ended where it is late."""
        library = job[1].library
        if library not in self.workers:
            here, there = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, self.dtype), daemon=True)
            process.start()
            there.close()
            self.workers[library] = process, here
        connection = self.workers[library][1]
        try:
            connection.send(job)
            if connection.poll(patience):
                return connection.recv()
            status = self.late
        except (OSError, EOFError):
            status = "failed: the process died"
        self.end(library)
        return {"status": status, "setting": job[2]}

    def end(self, library):
        """End the process of a library, and forget its first calls."""
        process, connection = self.workers.pop(library)
        process.kill()
        process.join()
        connection.close()
        self.first = {key: value for key, value in self.first.items() if key[0] != library}
