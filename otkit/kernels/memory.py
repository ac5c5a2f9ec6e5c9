"""Free memory, and a check that an array fits."""

from __future__ import annotations


def fits_in_memory(n: int, m: int, items: int, what: str) -> None:
    """Raise ``MemoryError`` unless an array of ``items × n × m`` float64 fits in the free memory."""
    need = 8 * items * n * m
    available = free_memory() if need > NEGLIGIBLE else None
    if available is not None and need > available:
        raise MemoryError(
            f"{what} of {n} × {m}{f' × {items} items' if items > 1 else ''} needs {need / 2**30:.1f} GiB, and "
            f"{available / 2**30:.1f} GiB are free; use plan_sparse(), apply() or transport(), which do not store it"
        )


# Sizes in bytes up to which free memory is not checked.
NEGLIGIBLE = 2**26


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
