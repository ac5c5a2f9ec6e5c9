"""The names and signatures of POT, Python Optimal Transport, on the solvers of otkit: ``import otkit.pot as ot``."""

from typing import Any

from otkit.pot import bregman, gaussian, lp, partial, sliced, unbalanced, utils
from otkit.pot.bregman import barycenter, sinkhorn, sinkhorn2
from otkit.pot.inputs import MarginalsError
from otkit.pot.lp import emd, emd2, emd2_1d, emd2_lazy, emd_1d, emd_1d_dual_backprop, wasserstein_1d
from otkit.pot.results import OTResult
from otkit.pot.sliced import max_sliced_wasserstein_distance, sliced_wasserstein_distance
from otkit.pot.solvers import solve, solve_sample
from otkit.pot.unbalanced import sinkhorn_unbalanced, sinkhorn_unbalanced2
from otkit.pot.utils import dist, unif

__all__ = [
    "MarginalsError",
    "OTResult",
    "barycenter",
    "bregman",
    "dist",
    "emd",
    "emd2",
    "emd2_1d",
    "emd2_lazy",
    "emd_1d",
    "emd_1d_dual_backprop",
    "gaussian",
    "lp",
    "max_sliced_wasserstein_distance",
    "partial",
    "sinkhorn",
    "sinkhorn2",
    "sinkhorn_unbalanced",
    "sinkhorn_unbalanced2",
    "sliced",
    "sliced_wasserstein_distance",
    "solve",
    "solve_sample",
    "unbalanced",
    "unif",
    "utils",
    "wasserstein_1d",
]


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"module 'otkit.pot' has no attribute {name!r}, which otkit does not solve or names otherwise; "
        "import POT for it, or see the page on coming from POT"
    )
