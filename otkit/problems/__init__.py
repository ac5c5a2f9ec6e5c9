"""What is asked: problems, validated once and frozen."""

from otkit.problems.linear import LinearProblem

__all__ = ["LinearProblem"]
