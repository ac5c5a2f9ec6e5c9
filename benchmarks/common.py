"""What the scripts share: timing, memory, a description of the machine, and JSON."""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def timed(call, *arguments):
    """The answer of a call, and its time in seconds."""
    start = time.perf_counter()
    answer = call(*arguments)
    return answer, time.perf_counter() - start


def in_turns(calls, rounds, seconds=0):
    """The answers of every call, by name. They take turns, for at least as many rounds and as many seconds."""
    found, end = {name: [] for name in calls}, time.perf_counter() + seconds
    while rounds > 0 or time.perf_counter() < end:
        for name, call in calls.items():
            found[name].append(call())
        rounds -= 1
    return found


def peak_memory():
    """The most memory that this process has had, in bytes, on Linux. What getrusage says includes the parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine():
    """The processor, its cores, the system and Python's version."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = info.partition("model name")[2].partition("\n")[0].strip("\t :") or platform.processor()
    return f"{model}, {cores()} cores, {platform.system()}, Python {platform.python_version()}"


def installed(package):
    """The version of a package, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def described(args, *packages):
    """What a file of results begins with: the command, the machine, and the versions of the packages found."""
    versions = {name: installed(name) for name in packages if installed(name)}
    command = shlex.join(["python", *sys.argv])
    return {"command": command, "machine": machine(), "versions": versions, "arguments": vars(args)}


def parser(text):
    """A parser of command lines that shows the whole text as help and takes ``--json FILE``."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", metavar="FILE", help="write every measurement to this file")
    return made


def save(path, content):
    """Write JSON to a file; without a path, do nothing."""
    if path:
        Path(path).write_text(json.dumps(content, indent=1) + "\n")
