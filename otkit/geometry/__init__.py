"""Geometries: cost matrices, points, and costs reduced by an offset of each row and column."""

from otkit.geometry.costs import Cost
from otkit.geometry.dense import Dense
from otkit.geometry.grid import Grid
from otkit.geometry.points import PointCloud

__all__ = ["Cost", "Dense", "Grid", "PointCloud"]
