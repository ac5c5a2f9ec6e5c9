"""The answer: how a solve ended, and what follows from it."""

from otkit.results.outcome import Outcome, SparseArcs, Stage, Status
from otkit.results.result import Result

__all__ = ["Outcome", "Result", "SparseArcs", "Stage", "Status"]
