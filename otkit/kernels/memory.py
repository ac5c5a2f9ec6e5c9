"""Free memory, a check that an array fits, and memory that is used again."""

from __future__ import annotations

from typing import Any

import numpy as np

# Sizes in bytes up to which free memory is not checked.
NEGLIGIBLE = 2**26


def fits_in_memory(n: int, m: int, items: int, what: str) -> None:
    """Raise ``MemoryError`` unless an array of ``items × n × m`` float64 fits in the free memory."""
    need = 8 * items * n * m
    available = free_memory() if need > NEGLIGIBLE else None
    if available is not None and need > available:
        raise MemoryError(
            f"{what} of {n} × {m}{f' × {items} items' if items > 1 else ''} needs {need / 2**30:.1f} GiB, and "
            f"{available / 2**30:.1f} GiB are free; use plan_sparse(), apply() or transport(), which do not store it"
        )


def free_memory() -> int | None:
    """Bytes of free memory, or None if the system does not report it."""
    try:
        with open("/proc/meminfo") as info:
            for line in info:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


# Memory of arrays that are no longer referred to, at most NEGLIGIBLE bytes. Fresh memory costs more than several passes
# over it, since the system clears it page by page.
_idle: dict[int, np.ndarray] = {}


class _Lent:
    """Memory that is idle again once no array refers to it: arrays made of it, and their views, keep this object."""

    def __init__(self, memory: np.ndarray, size: int) -> None:
        self._memory = memory
        self.__array_interface__: dict[str, Any] = memory[:size].__array_interface__

    def __del__(self, idle: dict[int, np.ndarray] = _idle) -> None:
        idle[id(self._memory)] = self._memory
        while sum(memory.size for memory in list(idle.values())) > NEGLIGIBLE:
            idle.pop(next(iter(idle)), None)


def lent(shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    """An uninitialised array, in memory that earlier ones have left if it fits."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if 0 < size <= NEGLIGIBLE:
        for key, memory in list(_idle.items()):
            if size <= memory.size <= 2 * size and _idle.pop(key, None) is not None:
                break
        else:
            memory = np.empty(size, dtype=np.uint8)
        return np.asarray(_Lent(memory, size)).view(dtype).reshape(shape)
    return np.empty(shape, dtype)
