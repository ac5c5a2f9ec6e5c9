"""Optimal transport as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit.api import solve_sample
from otkit.results import Result

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data
except ImportError as error:
    message = "otkit.sklearn needs scikit-learn 1.6 or newer; install it with: pip install 'otkit[sklearn]'"
    raise ImportError(message) from error

__all__ = ["OTMap"]

_DTYPES = (np.float64, np.float32)


class OTMap(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The map of optimal transport from one cloud of points to another, for points in and out of the sample.

    Parameters
    ----------
    metric : str, tuple or callable
        The cost, as in `otkit.solve_sample`.
    reg : float, optional
        The regularisation, in units of the cost. With it the map is the entropic one, which is smooth (Pooladian &
        Niles-Weed 2021). Without it, a point of X is mapped to its mean target, and another one moves as the nearest
        point of X (Ferradans et al. 2014).
    unbalanced : float or tuple, optional
        The penalty on the marginals, as in `otkit.solve_sample`.

    Attributes
    ----------
    result_ : Result
        The solution, with plan, status and certified bounds.
    n_features_in_ : int
        Number of coordinates.
    feature_names_in_ : array of str
        Names of the columns, if X has them.

    Examples
    --------
    >>> import numpy as np
    >>> from otkit.sklearn import OTMap
    >>> x, y = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 5.0], [0.0, 5.0]])
    >>> ot_map = OTMap().fit(x, y)
    >>> ot_map.transform([[0.0, 0.0], [0.9, 0.1]])
    array([[0. , 5. ],
           [0.9, 5.1]])
    >>> ot_map.inverse_transform([[1.0, 5.0]])
    array([[1., 0.]])
    """

    def __init__(self, metric: Any = "sqeuclidean", reg: float | None = None, unbalanced: Any = None) -> None:
        self.metric = metric
        self.reg = reg
        self.unbalanced = unbalanced

    def fit(self, X: Any, Y: Any = None) -> OTMap:
        """Solve the problem between X and Y.

        Parameters
        ----------
        X : array (n, d)
        Y : array (m, d), optional
            The target. If it is None, or has one axis for labels, as pipelines pass them, the target is the standard
            normal distribution, given by n points of a Halton sequence.

        Returns
        -------
        OTMap
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            If the data are invalid, or Y has another number of coordinates than X.
        """
        X = validate_data(self, X, dtype=_DTYPES)
        Y = np.asarray(0.0 if Y is None else Y)
        Y = _normal(X) if Y.ndim < 2 else check_array(Y, dtype=_DTYPES, input_name="Y")
        if Y.shape[1] != X.shape[1]:
            raise ValueError(
                f"Y must have the coordinates of X, {X.shape[1]}, got {Y.shape[1]}; pass points of one space"
            )
        options = dict(metric=self.metric, reg=self.reg, unbalanced=self.unbalanced)
        self.result_: Result = solve_sample(X, Y, **options)
        self._back: Result | None = None
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Map points to the target.

        Parameters
        ----------
        X : array (k, d)

        Returns
        -------
        array (k, d)
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_DTYPES, reset=False)
        return self._mapped(X, self.result_)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Map points of the target back, by the transposed problem, which the first call solves from the solution.

        Parameters
        ----------
        X : array (k, d)

        Returns
        -------
        array (k, d)
        """
        check_is_fitted(self)
        X = check_array(X, dtype=_DTYPES)
        if self._back is None:
            self._back = self._transposed()
        return self._mapped(X, self._back)

    def _mapped(self, X: np.ndarray, result: Result) -> np.ndarray:
        """The images of new points under the map of a solution."""
        if self.reg is not None:
            return result.transport(X).astype(X.dtype, copy=False)
        from scipy.spatial import cKDTree

        sample = result.problem.asked.arrays["x"]
        _, nearest = cKDTree(sample).query(X)
        return (X + (result.barycentric() - sample)[nearest]).astype(X.dtype, copy=False)

    def _transposed(self) -> Result:
        """The solution of the transposed problem."""
        asked = self.result_.problem.asked
        unbalanced = self.unbalanced[::-1] if isinstance(self.unbalanced, tuple) else self.unbalanced
        starts = self.reg is not None or not asked.convex_on_line  # on a line a sort solves it
        init = (self.result_.g, self.result_.f) if starts else None
        x, y = asked.arrays["x"], asked.arrays["y"]
        return solve_sample(y, x, metric=self.metric, reg=self.reg, unbalanced=unbalanced, init=init)


def _normal(X: np.ndarray) -> np.ndarray:
    """As many points of the standard normal distribution as X has, of as many coordinates."""
    from scipy.special import ndtri
    from scipy.stats.qmc import Halton

    points = Halton(X.shape[1], scramble=False)
    points.fast_forward(1)  # the first one is 0
    return ndtri(points.random(len(X))).astype(X.dtype)
