"""Distances between all pairs of many measures, or from each to its nearest: in blocks, on threads or any executor."""

from otkit.pairs.face import pairwise
from otkit.pairs.results import Answers, NeighboursResult, PairwiseResult

__all__ = ["Answers", "NeighboursResult", "PairwiseResult", "pairwise"]
