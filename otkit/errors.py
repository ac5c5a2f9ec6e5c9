"""Exceptions and warnings of otkit, beside ``ValueError`` and ``TypeError``."""

import sys
import warnings
from pathlib import Path

__all__ = ["ConvergenceWarning", "NotConverged"]


class ConvergenceWarning(UserWarning):
    """A solver stopped before it reached its tolerance; the result has the error that it reached.

    Examples
    --------
    >>> import warnings
    >>> import otkit
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     result = otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.3, 0.7], reg=0.01, max_iter=1)
    >>> caught[0].category is otkit.ConvergenceWarning, result.status
    (True, <Status.MAX_ITER>)
    """


class NotConverged(RuntimeError):
    """Raised instead of a `ConvergenceWarning` with ``strict=True``.

    Attributes
    ----------
    result : otkit.Result or otkit.WassersteinResult
        The unconverged result, with its status, errors and certified bounds.

    Examples
    --------
    >>> import otkit
    >>> try:
    ...     otkit.solve([[0.0, 1.0], [1.0, 0.0]], [0.3, 0.7], reg=0.01, max_iter=1, strict=True)
    ... except otkit.NotConverged as error:
    ...     error.result.status
    <Status.MAX_ITER>
    """

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type, tuple[str, object]]:
        return type(self), (str(self), self.result)


_HERE = str(Path(__file__).parent)


def warn(message: str, category: type[Warning] = ConvergenceWarning) -> None:
    """Warn at the stack level of the first caller outside this package and torch."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _is_between(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_between(file: str) -> bool:
    torch = sys.modules.get("torch")
    return file.startswith(_HERE) or (torch is not None and file.startswith(str(Path(str(torch.__file__)).parent)))
