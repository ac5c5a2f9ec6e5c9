"""What it costs: the geometries, and the reference version of every operation on them."""

from otkit.geometry.costs import Cost
from otkit.geometry.dense import Dense
from otkit.geometry.points import PointCloud

__all__ = ["Cost", "Dense", "PointCloud"]
