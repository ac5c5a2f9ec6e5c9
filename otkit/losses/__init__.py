"""Losses for training loops, as modules of PyTorch."""

from otkit.losses.sinkhorn import SinkhornLoss

__all__ = ["SinkhornLoss"]
