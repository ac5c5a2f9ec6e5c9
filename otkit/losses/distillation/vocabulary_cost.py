"""Costs between the entries of a vocabulary, all or those of near neighbours, and the divergence at these costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otkit import checks
from otkit.losses.tensors import check_tensor

# Entries in memory at once.
_ENTRIES = 2**24
_ROUNDING = 16.0  # of distances by products, in units of the root of the machine epsilon and of the largest


@dataclass(frozen=True, eq=False)
class VocabularyCost:
    """Symmetric costs between V entries: those of row i are at ``first[i] … first[i + 1]``, the others infinite.

    Attributes
    ----------
    first : Tensor of int (V + 1,)
    column : Tensor of int (E,)
    cost : Tensor (E,)

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import VocabularyCost
    >>> cost = VocabularyCost.nearest(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), k=1)
    >>> cost.first.tolist(), cost.column.tolist()
    ([0, 2, 5, 7], [0, 1, 0, 1, 2, 1, 2])
    """

    first: Tensor
    column: Tensor
    cost: Tensor

    @classmethod
    def dense(cls, C: Tensor) -> VocabularyCost:
        """The costs of a matrix, for a small number of classes.

        Parameters
        ----------
        C : Tensor (V, V)
            Costs: finite, not negative, and up to the rounding of distances such as ``torch.cdist(E, E)`` symmetric and
            0 on the diagonal. For the similarities s of classes in WKD they are ``1 − exp(−κ·(1 − s))``.

        Raises
        ------
        ValueError
            If the matrix is not such.
        """
        check_tensor("C", C, floating=False)
        if C.ndim != 2 or C.shape[0] != C.shape[1]:
            raise ValueError(
                f"C must have a row and a column for each of V entries, got {tuple(C.shape)}; for embeddings use "
                "VocabularyCost.nearest"
            )
        if not C.is_floating_point():
            C = C.float()
        C = C.detach()
        # A distance by a product of matrices is off by about √u of the lengths.
        rounding = _ROUNDING * torch.finfo(C.dtype).eps ** 0.5 * C.abs().amax()
        off = max((C - C.T).abs().amax(), C.diagonal().abs().amax())
        if not (torch.isfinite(C).all() and (C >= 0).all() and off <= rounding):
            raise ValueError(
                "C must be symmetric, finite, not negative and 0 on the diagonal; (C + C.T)/2 makes it symmetric"
            )
        V = len(C)
        first = torch.arange(0, V * V + 1, V, device=C.device)
        C = ((C.float() + C.T.float()) / 2).fill_diagonal_(0.0)
        return cls(first, torch.arange(V, device=C.device).repeat(V), C.flatten())

    @classmethod
    def nearest(cls, embeddings: Tensor, k: int = 8) -> VocabularyCost:
        """The costs 1 − cos between the embeddings of each entry and its nearest neighbours.

        Parameters
        ----------
        embeddings : Tensor (V, d)
        k : int
            The number of neighbours. The relation is made symmetric, and an entry is a neighbour of itself.

        Raises
        ------
        ValueError
            If an embedding is zero or not finite, or there are fewer neighbours than `k`.

        Notes
        -----
        Similarities are computed some rows at a time, never as a V × V matrix.
        """
        check_tensor("embeddings", embeddings)
        if embeddings.ndim != 2 or not torch.isfinite(embeddings).all():
            finite = "" if torch.isfinite(embeddings).all() else " with NaN or inf; set those rows to small noise"
            raise ValueError(f"embeddings must be finite and of shape (V, d), got {tuple(embeddings.shape)}{finite}")
        V = len(embeddings)
        checks.positive(k, "k")
        if not k < V:
            raise ValueError(f"k must be below the number of entries, {V}, got {k!r}; lower it, or use dense()")
        lengths = embeddings.detach().float().norm(dim=-1, keepdim=True)
        if not (lengths > 0).all():
            raise ValueError("embeddings must not be zero, got one that is; add a little noise to those not in use")
        unit = embeddings.detach().float() / lengths
        rows, columns = [], []
        for part in torch.arange(V, device=unit.device).split(max(1, _ENTRIES // V)):
            similar = unit[part] @ unit.T
            similar[torch.arange(len(part), device=unit.device), part] = -torch.inf
            columns.append(similar.topk(k, -1).indices.flatten())
            rows.append(part.repeat_interleave(k))
        i, j, own = torch.cat(rows), torch.cat(columns), torch.arange(V, device=unit.device)
        arcs = torch.unique(torch.cat([i * V + j, j * V + i, own * V + own]))
        i, j = arcs // V, arcs % V
        parts = zip(i.split(_ENTRIES // unit.shape[1] + 1), j.split(_ENTRIES // unit.shape[1] + 1), strict=True)
        # The dot product of a pair does not depend on its order. By rounding, 1 − cos can be slightly below 0.
        cost = torch.cat([1 - (unit[u] * unit[v]).sum(-1) for u, v in parts]).clamp_min(0.0)
        first = torch.cat([own.new_zeros(1), torch.bincount(i, minlength=V).cumsum(0)])
        return cls(first, j, cost.masked_fill(i == j, 0.0))

    def divergence(
        self, p: Tensor, q: Tensor, reg: float, n_iters: int, unbalanced: float | None
    ) -> tuple[Tensor, ...]:
        """The Sinkhorn divergences ``(r,)`` of rows of weights ``(r, V)``, and their derivatives by `p` and `q`."""
        size = max(1, _ENTRIES // len(self.cost))
        found = [
            self._divergence(a.T.contiguous(), b.T.contiguous(), reg, n_iters, unbalanced)
            for a, b in zip(p.split(size), q.split(size), strict=True)
        ]
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def _divergence(
        self, a: Tensor, b: Tensor, reg: float, n_iters: int, unbalanced: float | None
    ) -> tuple[Tensor, ...]:
        keep = 1.0 if unbalanced is None else unbalanced / (unbalanced + reg)
        log_a, log_b = (w.clamp_min(torch.finfo(w.dtype).tiny).log() for w in (a, b))
        h_a, h_b = (self._own_potential(log_w, reg, n_iters, keep) for log_w in (log_a, log_b))
        f, g = self._potentials(h_b, (log_a, log_b), reg, n_iters, keep)
        by_a, by_b, own_a, own_b = (_dual(h, reg, unbalanced) for h in (f, g, h_a, h_b))
        value = (a * (by_a - own_a) + b * (by_b - own_b)).sum(0)
        of_f, of_g, of_a, of_b = (_derivative(h, reg, unbalanced) for h in (f, g, h_a, h_b))
        return value, (of_f - of_a).T, (of_g - of_b).T

    def _own_potential(self, log_w: Tensor, reg: float, n_iters: int, keep: float) -> Tensor:
        """The potential of weights with themselves after `n_iters` iterations of means (Feydy et al. 2019).

        They converge at any `reg` within some 20 iterations, where alternating ones shift the two sides for long.
        """
        h = torch.zeros_like(log_w)
        for _ in range(n_iters):
            h = (h + keep * self._softmin(h, log_w, reg)) / 2
        return h

    def _potentials(
        self, g: Tensor, log_weights: tuple[Tensor, Tensor], reg: float, n_iters: int, keep: float
    ) -> tuple[Tensor, Tensor]:
        """The potentials of weights ``(V, r)`` after `n_iters` iterations from those of the columns."""
        log_a, log_b = log_weights
        for _ in range(n_iters):
            f = keep * self._softmin(g, log_b, reg)
            g = keep * self._softmin(f, log_a, reg)
        return f, g

    def _softmin(self, g: Tensor, log_w: Tensor, reg: float) -> Tensor:
        """``−reg·log Σ_j w_j·exp((g_j − C_ij)/reg)`` for ``g (V, r)``."""
        terms = (log_w + g / reg)[self.column] - (self.cost.to(g) / reg)[:, None]
        top = torch.segment_reduce(terms, "max", offsets=self.first, axis=0)
        sizes = self.first.diff()
        terms = (terms - top.repeat_interleave(sizes, 0)).exp_()
        return -reg * (top + torch.segment_reduce(terms, "sum", offsets=self.first, axis=0).log())


def _dual(h: Tensor, reg: float, unbalanced: float | None) -> Tensor:
    """The dual value of a unit of weight at its potential."""
    if unbalanced is None:
        return h
    return (unbalanced + reg / 2) * (1 - _ratio(h, unbalanced))


def _derivative(h: Tensor, reg: float, unbalanced: float | None) -> Tensor:
    """The derivative of the value by a weight at its potential, up to a constant."""
    return h if unbalanced is None else -(unbalanced + reg) * _ratio(h, unbalanced)


def _ratio(h: Tensor, unbalanced: float) -> Tensor:
    """The transported part of a unit of weight."""
    return (h / -unbalanced).clamp_max(80.0).exp()
