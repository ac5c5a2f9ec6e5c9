"""Barycenters: the measure whose mean transport cost to given measures is least."""

from otkit.barycenters.face import barycenter
from otkit.barycenters.result import BarycenterResult

__all__ = ["BarycenterResult", "barycenter"]
