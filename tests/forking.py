"""Run scripts, each in a process of its own that begins with the libraries loaded; otkit is not among these.

Standard input has two lines for each script: its path, and that of the file for all that it prints. Its exit status is
printed.
"""

import gc
import os
import runpy
import sys
import traceback
import warnings
from importlib import import_module
from importlib.util import find_spec

LIBRARIES = [
    "numpy", "scipy.optimize", "scipy.spatial", "scipy.sparse.csgraph", "matplotlib.pyplot", "sklearn.datasets", "torch._dynamo",
]  # fmt: skip


def load():
    for name in LIBRARIES:
        if find_spec(name.partition(".")[0]):
            import_module(name)
    import_module("numba").njit(lambda: 0)()  # its first compilation loads the most
    gc.freeze()  # else each process would copy all memory, for the counts in it


def run(script, printed):
    """Run a script, whose output goes to a file, and end the process."""
    with open(printed, "w") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main():
    load()
    for script in sys.stdin:
        printed = next(sys.stdin)
        with warnings.catch_warnings():  # of threads, which BLAS ends before a fork
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            run(script.strip(), printed.strip())
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)  # the libraries have nothing to put away


if __name__ == "__main__":
    main()
