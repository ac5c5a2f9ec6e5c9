"""A plugin of pytest under which POT's own tests call `otkit.pot` in place of POT.

In the namespaces of the installed POT, every public function that `otkit.pot` has is replaced by that one, and every
other one by a function that raises `NotOurs`, except for helpers of the tests. So no solver of POT runs in a test that
passes.
"""

import fnmatch
import functools
import inspect
import json
import os
import sys
from importlib import import_module
from pathlib import Path

import ot
import pytest

import otkit.pot

sys.path.insert(0, str(Path(__file__).parent))
from left_out import LEFT_OUT

# What the tests themselves are made of: data, arrays and their libraries, and a few plain helpers.
HELPERS = {
    "ot.backend",
    "ot.datasets",
    "ot.helpers",
    "ot.utils.dist0",
    "ot.utils.list_to_array",
    "ot.tic",
    "ot.toc",
    "ot.toq",
}
MODULES = ("lp", "bregman", "unbalanced", "partial", "sliced", "gaussian", "utils", "solvers")
OTHERS = ("da", "gromov", "optim", "smooth", "weak", "factored", "lowrank", "gmm", "regpath", "stochastic")

called, lacked = set(), set()  # names that the running test has called: of ours, and of those that we do not have


class NotOurs(Exception):
    """A test calls a function that `otkit.pot` does not have."""


def recorded(name, function):
    """Our function, which notes that it was called."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        called.add(name)
        return function(*args, **kwargs)

    return call


def missing(name, theirs):
    """A function or class in place of one that is not ours."""

    def call(*args, **kwargs):
        lacked.add(name)
        raise NotOurs(name)

    return type(name, (), {"__init__": call}) if inspect.isclass(theirs) else call


def replace(module, ours):
    """Our functions, or ones that raise, in place of the public functions and classes of a module of POT."""
    for name, theirs in list(vars(module).items()):
        path = f"{module.__name__}.{name}"
        home = getattr(theirs, "__module__", None) or ""
        if name.startswith("_") or not callable(theirs) or not home.startswith("ot") or path in HELPERS:
            continue
        if any(home == helper or home.startswith(f"{helper}.") for helper in HELPERS):
            continue
        found = getattr(ours, name, None)
        if found is None:
            setattr(module, name, missing(path, theirs))
        else:
            setattr(module, name, found if inspect.isclass(found) else recorded(path, found))


def install():
    """Replace the public functions of all modules. POT's own code keeps the functions that it has imported."""
    for name in MODULES:
        module = import_module(f"ot.{name}")
        replace(module, getattr(otkit.pot, name, None))
    for name in OTHERS:
        replace(import_module(f"ot.{name}"), None)
    replace(ot, otkit.pot)
    otkit.pot.OTResult._backend = None  # which POT's tests read to convert arrays


install()
verdicts = {}


def reason_of(item):
    """Why a test is left out; None for others."""
    path = f"{Path(item.path).name}::{item.name}"
    return next((why for pattern, why in LEFT_OUT.items() if fnmatch.fnmatchcase(path, pattern)), None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    called.clear()
    lacked.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" and not (report.when == "setup" and not report.passed):
        return
    why, error = reason_of(item), call.excinfo and call.excinfo.value
    if lacked:
        verdict = ("other", f"calls {', '.join(sorted(lacked))}")
    elif not called:
        verdict = ("other", "calls none of the functions")
    elif report.skipped:
        verdict = ("skipped", str(error))
    elif why is not None:
        verdict = ("left out", why) if report.failed else ("passes though left out", why)
    elif report.failed:
        verdict = ("failed", f"{type(error).__name__}: {error}"[:300])
    else:
        verdict = ("passed", "")
    verdicts[item.nodeid] = verdict
    if verdict[0] != "failed" and report.failed:
        report.outcome = "passed"


def pytest_sessionfinish(session):
    path = os.environ.get("OTKIT_POT_VERDICTS")
    if path:
        Path(path).write_text(json.dumps(verdicts))
