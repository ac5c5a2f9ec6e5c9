"""Results: the outcome of a solve, and the quantities derived from it."""

from otkit.results.outcome import Outcome, SparseArcs, Stage, Status
from otkit.results.result import Result

__all__ = ["Outcome", "Result", "SparseArcs", "Stage", "Status"]
