"""Stamps by which the cache on disk finds the machine code of a kernel.

Numba's cache checks the text of a kernel's own file. The stamp of a module stands for all else that is compiled into
its kernels: the constants and kernels that it imports, and with these their files.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pkgutil import get_data
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Options and elementary functions, which are parts of every kernel.
_COMMON = b"".join(get_data(__package__, name) or b"" for name in ("jit.py", "compiler.py", "intrinsics.py"))


def stamped(function: _Function) -> _Function:
    """The function, with the stamp of its module in its qualified name, from which Numba names files."""
    scope = function.__globals__
    if "__stamp__" not in scope:  # at the first kernel, after all imports
        scope["__stamp__"] = _stamp(scope)
    function.__qualname__ += f"_{scope['__stamp__']}"
    return function


def _stamp(scope: dict[str, Any]) -> str:
    """A digest of the source of a module, and of all that it has imported."""
    found = blake2b(_COMMON, digest_size=6)
    found.update(_source(scope))
    for name in sorted(name for name in scope if not name.startswith("__")):
        found.update(f"{name} {_identity(scope[name])}".encode())
    return found.hexdigest()


def _source(scope: dict[str, Any]) -> bytes:
    """The text of a module; nothing where a program is bundled without it, which is replaced as a whole."""
    try:
        return bytes(scope["__loader__"].get_data(scope["__file__"]))
    except OSError:
        return b""


def _identity(value: Any) -> str:
    """What a global name stands for in compiled code; empty for modules and for what Numba or Python has."""
    if hasattr(value, "py_func"):
        return str(value.py_func.__qualname__)
    if isinstance(value, (bool, int, float, str, tuple)):
        return repr(value)
    return repr(getattr(value, "_fields", ""))
