"""Machine code on disk is used only while everything that is compiled into it is as it was."""

import importlib
import pkgutil
import sys

import pytest

from otkit.kernels import numba as package
from otkit.kernels.numba.jit import told

CALLED = """
from otkit.kernels.numba.jit import jit

FACTOR = {factor}

@jit
def scaled(x):
    return {factor} * x
"""
CALLER = """
from otkit.kernels.numba.jit import jit
from {name} import FACTOR, scaled

@jit
def both(x):
    return scaled(x) + FACTOR
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """The kernel `both` of a new process: modules are imported from files, and machine code from the disk."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    caller, called = "stamped_caller", "stamped_called"

    def load(factor):
        (tmp_path / f"{called}.py").write_text(CALLED.format(factor=factor))
        (tmp_path / f"{caller}.py").write_text(CALLER.format(name=called))
        for name in (caller, called):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(caller).both

    yield load
    for name in (caller, called):
        sys.modules.pop(name, None)


def test_a_change_of_a_called_kernel_or_a_constant_compiles_anew(fresh):
    heard = []
    for factor, compiles in ((2.0, True), (2.0, False), (3.0, True), (3.0, False)):
        both = fresh(factor)
        heard.clear()
        with told(lambda: heard.append(1)):
            assert both(10.0) == 11 * factor
        assert heard == [1] * compiles


def test_all_kernels_have_the_stamp_of_their_module():
    found = [importlib.import_module(m.name) for m in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    modules = {module.__name__: vars(module) for module in found if hasattr(module, "__stamp__")}
    assert len(modules) > 25
    kernels = {value for scope in modules.values() for value in scope.values() if hasattr(value, "py_func")}
    assert len(kernels) > 150
    for kernel in kernels:
        assert kernel.py_func.__qualname__.endswith(modules[kernel.py_func.__module__]["__stamp__"])
