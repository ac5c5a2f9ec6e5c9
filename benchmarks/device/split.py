"""Where the time of an iteration goes: host or device, which kernel, launched one by one or as a graph."""

from statistics import median

import torch
from common import timed

from device.operations import Endless, Problem, failed
from otkit.kernels.triton.graphs import Repeated
from otkit.kernels.triton.launch import SINGLE

AT_ONCE = 8  # iterations that are timed together: the host enqueues them while the device waits for the clock to start


def measure_split(device, clock, sizes):
    """Iterations for dense float32 costs in single precision."""
    for n in sizes.points:
        try:
            yield {"n": n, "status": "ok"} | split(n, device, clock, sizes)
        except Exception as error:  # the other sizes go on
            yield {"n": n} | failed(error)


def split(n, device, clock, sizes):
    costs, at = Problem(n, "float32", None, device).state(n)
    call = Endless(costs, at, SINGLE)
    for _ in range(sizes.warm):
        call()
    found = {"one by one": times(call, clock)}
    with Repeated(call.once, at.f) as repeated:

        def once():
            call.calls += 1
            repeated()

        for _ in range(2):  # captured, and launched
            once()
        found["graph"] = times(once, clock) if repeated.graph is not None else None
    found["kernels"] = kernels(call) if device != "cpu" else {}
    call.check()
    return found


def times(once, clock):
    """Seconds of an iteration on the host, up to the last launch, and on the device."""

    def enqueue():
        for _ in range(AT_ONCE):
            once()

    host = []
    for _ in range(clock.repeat):
        clock.wait()
        host.append(timed(enqueue)[1])
    return {"host": median(host) / AT_ONCE, "device": clock(enqueue) / AT_ONCE}


def kernels(once):
    """Seconds of each kernel in an iteration."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(AT_ONCE):
            once()
        torch.cuda.synchronize()
    return {row.key: row.device_time_total / 1e6 / AT_ONCE for row in found.key_averages() if row.device_time_total}
