"""How much memory is taken."""

import subprocess
import sys
import textwrap
import tracemalloc
from contextlib import contextmanager

from otkit.kernels.numba import rows


def peak_of(code):
    """The peak of the resident memory of a process that runs the code, in bytes, before and after its last part."""
    measure = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    before, after = (textwrap.dedent(part) for part in code.split("MEASURE"))
    script = f"import resource\n{before}\n{measure}\n{after}\n{measure}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    return [unit * int(line) for line in run.stdout.split()]


@contextmanager
def no_matrix(n, m, share=0.5):
    """Less than a share of an n × m matrix of float64 is allocated at any time, for whatever purpose."""
    kept, rows._held[:] = rows._held[:], []  # what was allocated before would be of use, and is not seen
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        rows._held[:] = kept
    assert peak < share * 8 * n * m, f"{peak / (8 * n * m):.2f} of the matrix"
