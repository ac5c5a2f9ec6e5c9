"""How much memory is taken."""

import os
import subprocess
import sys
import textwrap
import tracemalloc

from otkit.kernels import memory

# On Linux what getrusage says of a process begins with what its parent had.
_PEAK = """
import resource, sys
from pathlib import Path

def peak():
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""


def of_process(script, *arguments):
    """The numbers that a process prints which runs the script: `peak()` there is its peak of resident memory in bytes.

    Blocks of 1 MiB come from the system and return to it: glibc leaves holes of up to 32 MiB else, now and then.
    """
    command = [sys.executable, "-c", _PEAK + textwrap.dedent(script), *map(str, arguments)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    return [float(word) for word in run.stdout.split()]


def peak_of(code):
    """The peak of the resident memory of a process that runs the code, in bytes, before and after its last part."""
    before, after = (textwrap.dedent(part) for part in code.split("MEASURE"))
    return of_process(f"{before}\nprint(peak())\n{after}\nprint(peak())")


def without_matrix(call, n, m, share=0.5):
    """The answer of a call that allocates less than a share of an n × m matrix of float64 at any time."""
    call()  # compiles, which takes memory too
    kept = dict(memory._idle)
    memory._idle.clear()  # what was allocated before would be of use, and is not seen
    tracemalloc.start()
    try:
        answer = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        memory._idle.update(kept)
    assert peak < share * 8 * n * m, f"{peak / (8 * n * m):.2f} of the matrix"
    return answer
