"""The classes that asv tracks run: each once, at its smallest problem."""

import importlib
import inspect
from pathlib import Path

import pytest

SUITE = Path(__file__).parents[1] / "benchmarks" / "suite"
TRACKED = ("time_", "track_", "peakmem_")


def tracked(name):
    """The classes of a module of the suite with benchmarks, and the names of these."""
    module = importlib.import_module(f"suite.{name}")
    for of in dict(inspect.getmembers(module, inspect.isclass)).values():
        methods = [key for key in dir(of) if key.startswith(TRACKED)]
        if methods and of.__module__ == module.__name__:
            yield of, methods


def smallest(of):
    """The first value of each parameter."""
    params = getattr(of, "params", [])
    return [each[0] for each in params] if params and isinstance(params[0], (list, tuple)) else params[:1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::otkit.ConvergenceWarning")  # some stop early, to compile only
@pytest.mark.parametrize("name", sorted(path.stem for path in SUITE.glob("[a-z]*.py")))
def test_every_class_runs(monkeypatch, name):
    monkeypatch.syspath_prepend(str(SUITE.parent))
    for of, methods in tracked(name):
        chosen = smallest(of)
        case = of()
        if hasattr(case, "setup"):
            case.setup(*chosen)
        for method in methods:
            getattr(case, method)(*chosen)
