"""What otkit raises and warns beside ``ValueError`` and ``TypeError``."""

import sys
import warnings
from pathlib import Path

__all__ = ["ConvergenceWarning", "NotConverged"]


class ConvergenceWarning(UserWarning):
    """A solver stopped before it reached its tolerance; the result says how far it came."""


class NotConverged(RuntimeError):
    """Raised in place of a `ConvergenceWarning` under ``strict=True``.

    Attributes
    ----------
    result : otkit.Result or otkit.WassersteinResult
        The unconverged result, with its status, errors and certified bounds.
    """

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type, tuple[str, object]]:
        return type(self), (str(self), self.result)


_HERE = str(Path(__file__).parent)


def warn(message: str) -> None:
    """Warn in the name of the caller of this package, wherever in it (and in torch) that is found out."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _is_between(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ConvergenceWarning, stacklevel=level)


def _is_between(file: str) -> bool:
    torch = sys.modules.get("torch")
    return file.startswith(_HERE) or (torch is not None and file.startswith(str(Path(str(torch.__file__)).parent)))
