"""Optimal transport problems, validated once and immutable."""

from otkit.problems.linear import LinearProblem

__all__ = ["LinearProblem"]
