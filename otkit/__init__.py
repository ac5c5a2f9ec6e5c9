"""Optimal transport with certified bounds on its results.

>>> import otkit
>>> float(otkit.wasserstein([[0.0, 0.0]], [[3.0, 4.0]]))
5.0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otkit.api import solve, solve_grid, solve_sample
    from otkit.barycenters import BarycenterResult, barycenter
    from otkit.distance import WassersteinResult, wasserstein
    from otkit.divergence import DivergenceResult, sinkhorn_divergence
    from otkit.errors import ConvergenceWarning, NotConverged
    from otkit.gaussians import fid, gaussian_wasserstein
    from otkit.geometry import Dense, Grid, PointCloud
    from otkit.lists import split
    from otkit.results import Result, SparseArcs, Stage, Status
    from otkit.sharding import sharded
    from otkit.slices import SlicedResult, sliced_wasserstein
    from otkit.solvers import (
        Annealing,
        CoarseToFine,
        Exact,
        FrankWolfe,
        GridFlow,
        Multiscale,
        Progress,
        Sinkhorn,
        SparseNewton,
        Univariate,
    )

__version__ = "0.1.0.dev0"

# Public names by module. Each is loaded on first use, so that `import otkit` is quick.
_HOMES = {
    "otkit.api": ("solve", "solve_grid", "solve_sample"),
    "otkit.autograd.inputs": ("Gradients",),
    "otkit.autograd.rules": ("vjp",),
    "otkit.barycenters": ("BarycenterResult", "barycenter"),
    "otkit.bounds": ("certify",),
    "otkit.distance": ("WassersteinResult", "wasserstein"),
    "otkit.divergence": ("DivergenceResult", "sinkhorn_divergence"),
    "otkit.errors": ("ConvergenceWarning", "NotConverged"),
    "otkit.gaussians": ("fid", "gaussian_wasserstein"),
    "otkit.geometry": ("Dense", "Grid", "PointCloud"),
    "otkit.lists": ("split",),
    "otkit.pairs": ("NeighboursResult", "PairwiseResult", "pairwise"),
    "otkit.results": ("Result", "SparseArcs", "Stage", "Status"),
    "otkit.sharding": ("sharded",),
    "otkit.slices": ("SlicedResult", "sliced_wasserstein"),
    "otkit.solvers": (
        "Annealing",
        "CoarseToFine",
        "Exact",
        "FrankWolfe",
        "GridFlow",
        "Multiscale",
        "Progress",
        "Sinkhorn",
        "SparseNewton",
        "Univariate",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  (in the order of the reference)
    "solve",
    "solve_sample",
    "solve_grid",
    "wasserstein",
    "sliced_wasserstein",
    "gaussian_wasserstein",
    "fid",
    "pairwise",
    "sinkhorn_divergence",
    "barycenter",
    "split",
    "certify",
    "sharded",
    "vjp",
    "Result",
    "WassersteinResult",
    "SlicedResult",
    "PairwiseResult",
    "NeighboursResult",
    "DivergenceResult",
    "BarycenterResult",
    "Gradients",
    "Status",
    "Stage",
    "SparseArcs",
    "Dense",
    "PointCloud",
    "Grid",
    "Sinkhorn",
    "SparseNewton",
    "Exact",
    "Multiscale",
    "Annealing",
    "FrankWolfe",
    "Univariate",
    "CoarseToFine",
    "GridFlow",
    "Progress",
    "ConvergenceWarning",
    "NotConverged",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'otkit' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
