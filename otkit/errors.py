"""What otkit raises and warns beside ``ValueError`` and ``TypeError``."""

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
