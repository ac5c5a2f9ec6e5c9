"""The Wasserstein distance of Gaussians, and of Gaussians fitted to features (FID)."""

from __future__ import annotations

from typing import Any

import numpy as np

from otkit import arrays, checks
from otkit.arrays import Array, from_numpy, namespace, to_numpy
from otkit.geometry.costs import UNIT
from otkit.geometry.points import PointCloud
from otkit.problems.linear import result_dtype

# The largest asymmetry and the most negative eigenvalue of a covariance, relative to its largest entry or eigenvalue.
_ROUNDING = 1e-5
# The least deviation along a feature, given those before it, relative to the largest, at which covariances are formed.
# Rounding then moves a distance by at most about 1e-11 of the deviations.
_LEAST = 2.0**-17


@arrays.eager
def gaussian_wasserstein(mean_x: Any, mean_y: Any, cov_x: Any, cov_y: Any) -> Any:
    """The 2-Wasserstein distance of two Gaussians: √(‖m − m′‖² + tr(Σ + Σ′ − 2 (Σ^½ Σ′ Σ^½)^½)).

    Parameters
    ----------
    mean_x, mean_y : array (..., d)
    cov_x, cov_y : array (..., d, d)
        Positive semi-definite covariances, which may be singular. Leading axes broadcast.

    Returns
    -------
    float or array (...)
        An array for a batch, and a tensor where the input requires gradients.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, numbers are not finite, or a covariance is not symmetric and positive semi-definite.

    Notes
    -----
    Gelbrich (1990): the distance of any two measures is at least that of the Gaussians of their moments. It is computed
    as a norm of a difference of roots of the covariances, without cancellation where they nearly coincide. Its gradient
    at 0 is defined as 0. By a singular covariance it is the one within its range.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> otkit.gaussian_wasserstein([0.0, 0.0], [3.0, 4.0], np.eye(2), np.eye(2))
    5.0
    >>> otkit.gaussian_wasserstein([0.0, 0.0], [0.0, 0.0], np.diag([4.0, 0.0]), np.diag([1.0, 0.0]))
    1.0
    """
    names = ("mean_x", "mean_y", "cov_x", "cov_y")
    given = [checks.as_array(v, name) for v, name in zip((mean_x, mean_y, cov_x, cov_y), names, strict=True)]
    checks.same_library(**dict(zip(names, given, strict=True)))
    hosts = [arrays.float64(to_numpy(arrays.detached(v))) for v in given]
    _check_moments(dict(zip(names, hosts, strict=True)))
    m, n, A, B = hosts
    roots = [_root(C, name) for C, name in zip((A, B), names[2:], strict=True)]
    U, V = _aligned(*roots)
    shift = m - n
    distance = np.sqrt((shift**2).sum(-1) + ((roots[0] @ U - roots[1] @ V) ** 2).sum((-2, -1)))
    wanted = any(map(arrays.requires_grad, given))
    gradients = _by_moments(shift, distance, roots, (U, V)) if wanted else None
    return _returned("gaussian_wasserstein", distance, gradients, given)


@arrays.eager
def fid(x: Any, y: Any) -> Any:
    """The Fréchet distance of features: the squared 2-Wasserstein distance of Gaussians with their moments.

    With the activations of an Inception network it is the Fréchet inception distance. Covariances are unbiased (divided
    by n − 1), as is usual.

    Parameters
    ----------
    x : array (..., n, d)
    y : array (..., m, d)
        Features of at least two samples each. There may be fewer samples than features.

    Returns
    -------
    float or array (...)
        An array for a batch, and a tensor where the input requires gradients.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, numbers are not finite, or there is one sample.

    Notes
    -----
    Heusel et al. (2017). The distance and its gradients come from factors of the centred features, of which covariances
    are formed only if they are well-conditioned. They are finite for singular ones too, and 0 for equal features.

    Examples
    --------
    >>> import numpy as np
    >>> import otkit
    >>> x = np.random.default_rng(0).normal(size=(100, 8))
    >>> round(otkit.fid(x, x + 1.0), 9)
    8.0
    """
    x, y = checks.as_array(x, "x", y), checks.as_array(y, "y", x)
    checks.same_library(x=x, y=y)
    PointCloud(x, y).check()
    for v, name in ((x, "x"), (y, "y")):
        if v.shape[-2] < 2:
            raise ValueError(f"{name} must have at least two samples, which have a covariance, got one; add samples")
    hosts = [arrays.float64(to_numpy(arrays.detached(v))) for v in (x, y)]
    means = [v.mean(-2, keepdims=True) for v in hosts]
    scaled = [(v - mean) / np.sqrt(v.shape[-2] - 1) for v, mean in zip(hosts, means, strict=True)]
    wanted = any(map(arrays.requires_grad, (x, y)))
    frames, roots = zip(*(_factored(v, frame=wanted) for v in scaled), strict=True)
    wide = max(L.shape[-1] for L in roots)
    padded = [_padded(L, wide) for L in roots]
    U, V = _aligned(*padded)
    shift, apart = means[0] - means[1], padded[0] @ U - padded[1] @ V
    distance = (shift**2).sum((-2, -1)) + (apart**2).sum((-2, -1))
    gradients = None
    if wanted:
        turned = (apart @ np.swapaxes(U, -1, -2), -apart @ np.swapaxes(V, -1, -2))
        gradients = []
        for v, Q, D, sign in zip(hosts, frames, turned, (1.0, -1.0), strict=True):
            n, k = v.shape[-2], Q.shape[-1]
            spread = Q @ np.swapaxes(D[..., :k], -1, -2) * (2 / np.sqrt(n - 1))
            gradients.append(spread - spread.mean(-2, keepdims=True) + sign * 2 / n * shift)
    return _returned("fid", distance, gradients, [x, y])


def _check_moments(moments: dict[str, np.ndarray]) -> None:
    """Require means and covariances of one dimension, in a common batch, of finite numbers."""
    d = moments["mean_x"].shape[-1] if moments["mean_x"].ndim else 0
    for (name, v), axes in zip(moments.items(), (1, 1, 2, 2), strict=True):
        shape = f"(..., {', '.join([str(d) if d else 'd'] * axes)})"
        if v.ndim < axes or v.shape[v.ndim - axes :] != (d,) * axes or 0 in v.shape:
            raise ValueError(f"{name} must have shape {shape}, got shape {v.shape}; np.atleast_1d and np.diag add axes")
        if not np.isfinite(v).all():
            raise ValueError(f"{name} must be finite, got NaN or inf in it; drop the features that have them")
    lead = {name: v.shape[: v.ndim - (1 if "mean" in name else 2)] for name, v in moments.items()}
    checks.batch_shape(**lead)


def _root(C: np.ndarray, name: str) -> np.ndarray:
    """The symmetric root of a covariance; ``ValueError`` if it is none."""
    size = abs(C).max((-2, -1))
    asymmetry = abs(C - np.swapaxes(C, -1, -2)).max((-2, -1))
    if (asymmetry > _ROUNDING * size).any():
        most = asymmetry.max()
        raise ValueError(f"{name} must be symmetric, got entries that differ by {most:.3g}; pass (C + C.T) / 2")
    values, vectors = np.linalg.eigh(C)
    noise = C.shape[-1] * UNIT * size[..., None]
    if (values[..., 0] < -_ROUNDING * size).any():
        raise ValueError(
            f"{name} must be positive semi-definite, got an eigenvalue {values[..., 0].min():.3g}; np.cov makes one"
        )
    deviations = np.sqrt(np.where(values > noise, values, 0.0))
    return np.asarray((vectors * deviations[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def _factored(X: np.ndarray, *, frame: bool) -> tuple[np.ndarray, np.ndarray]:
    """Q and L with X = Q Lᵀ and orthonormal columns of Q, so that XᵀX = L Lᵀ; L is ``(..., d, min(n, d))``.

    Without `frame`, Q has no entries.
    """
    n, d = X.shape[-2:]
    if n <= d:
        return np.eye(n), np.swapaxes(X, -1, -2)
    L = _of_covariance(np.swapaxes(X, -1, -2) @ X)
    if L is not None:
        return X @ np.swapaxes(np.linalg.inv(L), -1, -2) if frame else np.empty(0), L
    Q, R = np.linalg.qr(X) if frame else (np.empty(0), np.linalg.qr(X, mode="r"))
    return Q, np.swapaxes(R, -1, -2)


def _of_covariance(C: np.ndarray) -> np.ndarray | None:
    """The factor L of covariances L Lᵀ; None unless all are well-conditioned."""
    try:
        L = np.linalg.cholesky(C)
    except np.linalg.LinAlgError:
        return None
    along = np.diagonal(L, axis1=-2, axis2=-1)
    return L if (along.min(-1) >= _LEAST * along.max(-1)).all() else None


def _padded(L: np.ndarray, wide: int) -> np.ndarray:
    return np.concatenate([L, np.zeros((*L.shape[:-1], wide - L.shape[-1]))], axis=-1)


def _aligned(L: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonal U and V of least ‖L U − K V‖, which is the distance of the covariances L Lᵀ and K Kᵀ."""
    U, _, Vt = np.linalg.svd(np.swapaxes(L, -1, -2) @ K)
    return U, np.swapaxes(Vt, -1, -2)


def _by_moments(
    shift: np.ndarray, distance: np.ndarray, roots: list[np.ndarray], turns: tuple[np.ndarray, np.ndarray]
) -> list[np.ndarray]:
    """Gradients of the distance by the means and the covariances.

    That of the squared distance by Σ is I − T, with the map T of Σ to Σ′: T Σ^½ = Σ′^½ V Uᵀ.
    """
    (L, K), (U, V) = roots, turns
    noise = 8 * shift.shape[-1] * UNIT * (np.linalg.norm(L, axis=(-2, -1)) + np.linalg.norm(K, axis=(-2, -1)))
    half = 0.5 / np.where(distance > noise, distance, np.inf)
    by_mean, by_cov = (2 * half)[..., None] * shift, []
    for here, there, turn in ((L, K, V @ np.swapaxes(U, -1, -2)), (K, L, U @ np.swapaxes(V, -1, -2))):
        of_map = (here - there @ turn) @ np.linalg.pinv(here, rcond=1e-10, hermitian=True)
        by_cov.append(half[..., None, None] * (of_map + np.swapaxes(of_map, -1, -2)) / 2)
    return [by_mean, -by_mean, *by_cov]


def _returned(what: str, distance: np.ndarray, gradients: list[np.ndarray] | None, given: list[Array]) -> Any:
    """A number or an array of the library of the input, in autograd's graph where that requires gradients."""
    if gradients is None and not distance.ndim:
        return float(distance)
    dtype, _ = result_dtype(given)
    like = given[0]
    value = namespace(like).astype(from_numpy(distance, like), dtype, copy=False)
    if gradients is None:
        return value
    from otkit.autograd.torch import recorded

    return recorded(what, value, [from_numpy(v, like) for v in gradients], given)
