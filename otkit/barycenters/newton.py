"""Newton's method for the masses of a debiased barycenter on few points, on the host.

The mean Sinkhorn divergence J is convex in the masses b, and nearly flat in all directions that the kernel of the
regularisation blurs. Fixed-point iterations hardly move there. Its derivative is ``c = Σ_k w_k·g_k − h``, for the
potentials g_k of the columns and the potential h of b with itself. In units of the regularisation, with the densities
``p = P/(a⊗b)`` of a plan and q of that of b with itself, the second derivative is

    Σ_k w_k·pᵀA(1 − pBpᵀA)⁻¹p + q(1 + Bq)⁻¹    for A = diag(a), B = diag(b),

which masses of 0 leave finite. Each step minimises the quadratic model over the simplex. Where it is flat within
rounding, the masses stay as they are. By the decrement δ, J is ½δ² above the minimum of its model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import nnls

from otkit.arrays import log, logsumexp

# Error of the potentials, at which they count as known; and the largest from which J and its derivative are computed.
_INNER, _KNOWN = 1e-12, 1e-8
# Maximum number of iterations for the potentials of given masses, of a measure and of the barycenter with itself.
_TRIES, _OWN_TRIES = 25, 300
# Maximum number of steps for the masses.
_STEPS = 50
# Eigenvalues of the second derivative below the first may be rounding. Where a step fails this rises by the factor, up
# to the last.
_FLAT, _FLATTER, _FLATTEST = 1e-10, 30.0, 1e-2
# Steps of which a smaller share is taken have failed.
_SHORT = 0.1
# Rounding of J and of eigenvalues. Weight of the total mass among the least squares. Share of mass that sets the unit
# of a point without mass.
_UNIT, _WHOLE, _TRACE = 1e-15, 10.0, 1e-3
# Share of another start in the mean of the measures: a little of it, where the measures have no mass at all.
_MIXED = 1e-3
# Largest mass error at which the potentials of a measure take Newton steps, and the largest change in such a step.
_NEAR, _FAR = 0.5, 2.0


@dataclass(frozen=True)
class Task:
    """A debiased barycenter at mass 1; costs are divided by the regularisation.

    Attributes
    ----------
    costs : numpy array (K, n, m)
    support : numpy array (m, m)
    a, weights : numpy array (K, n), (K,)
    shared : bool
        Whether the measures are on the support.
    """

    costs: np.ndarray
    support: np.ndarray
    a: np.ndarray
    weights: np.ndarray
    shared: bool


@dataclass(frozen=True)
class Masses:
    """Masses b of the barycenter, and what follows from them.

    Attributes
    ----------
    b : numpy array (m,)
    f, g : numpy array (K, n), (K, m)
        The potentials of the measures and of the barycenter, divided by the regularisation.
    own : numpy array (m,)
        That of the barycenter with itself.
    slope : numpy array (m,)
        The derivative c, less ⟨b, c⟩.
    value, error : float
        J up to a constant, and the largest L1 error of a plan's columns.
    """

    b: np.ndarray
    f: np.ndarray
    g: np.ndarray
    own: np.ndarray
    slope: np.ndarray
    value: float
    error: float


def _softmin(costs: np.ndarray, v: np.ndarray) -> np.ndarray:
    """−log Σ_j exp(v_j − c_ij), for log weights that are part of v."""
    return np.asarray(-logsumexp(v - costs))


def _potentials(costs: np.ndarray, a: np.ndarray, b: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """f, g and the L1 error of the columns, by half iterations and Newton steps in turns, from `g`."""
    log_a, log_b, root = log(a), log(b), np.sqrt(b)
    best = (np.zeros_like(a), g, np.inf)
    for _ in range(_TRIES):
        f = _softmin(costs, g + log_b)
        new = _softmin(costs.T, f + log_a)
        ratio = np.exp(np.minimum(g - new, 700.0))  # of the columns' sums to b
        error = float(b @ abs(ratio - 1))
        if error < best[2]:
            best = f, new, error
        if error <= _INNER:
            break
        if error < _NEAR:
            scaled = np.exp(f[:, None] + g - costs + (log_a[:, None] + log_b) / 2)
            matrix = np.diag(np.where(b > 0, ratio, 1.0)) - scaled.T @ scaled + np.outer(root, root)
            try:
                change = cho_solve(cho_factor(matrix, overwrite_a=True), root * (1 - ratio))
            except LinAlgError:  # singular within rounding
                g = new
                continue
            change = np.where(root > 0, change / np.where(root > 0, root, 1.0), 0.0)
            new = _softmin(costs.T, _softmin(costs, g + np.clip(change, -_FAR, _FAR) + log_b) + log_a)
        g = new
    return best


def _alone(support: np.ndarray, b: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, float]:
    """The potential of b with itself, by the symmetric iteration."""
    log_b, error = log(b), np.inf
    for _ in range(_OWN_TRIES):
        below = _softmin(support, own + log_b)
        error = float(b @ abs(np.expm1(np.minimum(own - below, 700.0))))
        if error <= _INNER:
            break
        own = (own + below) / 2
    return own, error


def at_masses(task: Task, b: np.ndarray, g: np.ndarray, own: np.ndarray) -> Masses:
    """The masses b, with potentials that are sought from these."""
    found = [_potentials(costs, a, b, v) for costs, a, v in zip(task.costs, task.a, g, strict=True)]
    own, error = _alone(task.support, b, own)
    f, g = (np.stack([one[k] for one in found]) for k in (0, 1))
    slope = task.weights @ g - own
    earned = np.where(task.a > 0, task.a * f, 0.0).sum(1) + g @ b
    value = float(task.weights @ earned - b @ own)
    return Masses(b, f, g, own, slope - b @ slope, value, max(error, *(one[2] for one in found)))


def _second(task: Task, at: Masses) -> np.ndarray:
    """The second derivative of J by the masses, ``(m, m)``, of which b is in the null space.

    On changes of sum 0 it is determined up to multiples of 1 in rows and columns, which may be larger by far.
    """
    root, n, m = np.sqrt(at.b), task.a.shape[1], at.b.size
    total = np.zeros((m, m))
    for w, costs, a, f, g in zip(task.weights, task.costs, task.a, at.f, at.g, strict=True):
        root_a = np.sqrt(a)
        density = np.exp(np.where(a > 0, f + log(root_a), -np.inf)[:, None] + g - costs)
        scaled = density * root
        total += w * (density.T @ np.linalg.solve(np.eye(n) - scaled @ scaled.T + np.outer(root_a, root_a), density))
    density = np.exp(at.own[:, None] + at.own - task.support)
    half = density * root
    total += density - half @ np.linalg.solve(np.eye(m) + root[:, None] * half, half.T)
    total -= total @ at.b[:, None]
    return np.asarray(total - at.b @ total)


class _Model(NamedTuple):
    """Where the model of J is least: the change of b, and the decrement δ."""

    move: np.ndarray
    decrement: float


def _model(second: np.ndarray, at: Masses, flat: float) -> _Model:
    """The least ``⟨c, d⟩ + ½·⟨d, Hd⟩`` over changes d of the masses, as non-negative least squares.

    Eigenvalues of H are raised to `flat`: in directions in which rounding decides, the masses hardly change.
    """
    m, c = at.b.size, at.slope
    # Far from all mass, H is larger by orders of magnitude.
    unit = np.sqrt(1 / np.maximum(1 / (at.b + _TRACE / m), np.diag(second)))
    values, vectors = np.linalg.eigh(unit[:, None] * (second + second.T) * unit / 2)
    size = abs(values)  # a kernel that is not positive definite has negative ones
    root = np.sqrt(np.maximum(size, max(flat, _UNIT * size.max())))
    rows = root[:, None] * vectors.T
    right = rows @ (at.b / unit) - (vectors.T @ (unit * c)) / root
    whole = _WHOLE * max(float(root.max()), 1.0)
    matrix = np.concatenate([rows, whole * unit[None]])
    b = nnls(matrix, np.concatenate([right, [whole]]), maxiter=30 * m)[0] * unit
    b = b / b.sum()
    move = b - at.b
    bent = second @ move
    fall = max(-float(c @ move) - float(move @ bent) / 2, 0.0)
    # What is left of the slope of the model there, in units of its curvature, is what rounding or `flat` leaves.
    left = c + bent - b @ (c + bent)
    left = np.minimum(b / unit, unit * left)
    return _Model(move, float(np.sqrt(2 * fall + left @ left)))


def _starts(task: Task, b: np.ndarray, g: np.ndarray, own: np.ndarray) -> Masses:
    """The best of some masses to start from: those given, and the mean of the measures if these are on the support.

    The latter is the barycenter of measures that are equal. In flat directions it decides.
    """
    best = at_masses(task, b, g, own)
    if task.shared:
        mean = task.weights @ task.a
        for other in (mean, (1 - _MIXED) * mean + _MIXED * b):
            tried = at_masses(task, other, best.g, best.own)
            if tried.error <= _KNOWN and tried.value <= best.value + _UNIT * abs(best.value):
                best = tried
    return best


def newton(
    task: Task, start: tuple[np.ndarray, np.ndarray, np.ndarray], tol: float, limit: int
) -> tuple[Masses, float, int]:
    """The masses at a decrement of at most `tol`, unless rounding or `limit` forbids; the decrement; number of steps.

    ``start`` has b, and potentials g ``(K, m)`` and own ``(m,)`` that are relative to b.
    """
    at, flat, steps, decrement = _starts(task, *start), _FLAT, 0, np.inf
    while at.error <= _KNOWN:
        second = _second(task, at)
        try:
            model = _model(second, at, flat)
        except (RuntimeError, LinAlgError):  # no least squares within their limit of iterations
            break
        decrement = model.decrement
        if decrement <= tol or steps >= min(limit, _STEPS):
            break
        at, share = _along(task, at, model.move)
        steps += 1
        if share < _SHORT:
            flat *= _FLATTER
        if share == 0 and flat > _FLATTEST:
            break
    return at, decrement, steps


def _along(task: Task, at: Masses, move: np.ndarray) -> tuple[Masses, float]:
    """The masses after the largest share of a move, of 1, ¼, …, by which J falls; and this share, or 0."""
    share, slope = 1.0, float(at.slope @ move)
    while share > 1e-3 and slope < 0:
        tried = at_masses(task, np.maximum(at.b + share * move, 0.0), at.g, at.own)
        if tried.error <= _KNOWN and tried.value <= at.value + 1e-4 * share * slope + _UNIT * abs(at.value):
            return tried, share
        share /= 4
    return at, 0.0
