"""The caller's inputs, by which gradients are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otkit import arrays
from otkit.arrays import namespace
from otkit.geometry.base import GivenGeometry


@dataclass(frozen=True)
class Given:
    """The caller's inputs: the leaves of the backward pass.

    Inputs that require gradients are the caller's own tensors, which may change after the solve. Their values are read
    at the solve only. All others are copies, except for a matrix of costs.

    Attributes
    ----------
    geometry : GivenGeometry
    a, b, reg, unbalanced
        Arrays, numbers or None.
    totals : tuple of two
        The total weights of each side in the caller's graph; None for weights that require no gradients.
    """

    geometry: GivenGeometry
    a: Any
    b: Any
    reg: Any
    unbalanced: Any
    totals: tuple[Any, Any]

    @staticmethod
    def of(asked: GivenGeometry, owned: GivenGeometry, weights: tuple[Any, Any], reg: Any, unbalanced: Any) -> Given:
        """The inputs of a solve; `owned` are the costs `asked` with points of their own."""
        geometry = asked if any(map(arrays.requires_grad, asked.arrays.values())) else owned
        leaves = [w if arrays.requires_grad(w) else arrays.copied(w) for w in weights]
        leaves[1] = leaves[0] if weights[0] is weights[1] else leaves[1]
        totals = [_total(w) if arrays.requires_grad(w) else None for w in weights]
        rho = tuple(map(arrays.copied, unbalanced)) if isinstance(unbalanced, tuple) else arrays.copied(unbalanced)
        return Given(geometry, leaves[0], leaves[1], arrays.copied(reg), rho, (totals[0], totals[1]))

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles, detached from autograd's graph."""
        rho = self.unbalanced
        rho = tuple(map(arrays.detached, rho)) if isinstance(rho, tuple) else arrays.detached(rho)
        rest = {name: arrays.detached(getattr(self, name)) for name in ("a", "b", "reg")}
        totals = tuple(map(arrays.detached, self.totals))
        return {"geometry": self.geometry.detached(), "unbalanced": rho, "totals": totals, **rest}

    @property
    def symmetric(self) -> bool:
        """Whether the problem is its own transpose: between a measure of points and itself."""
        points = tuple(self.geometry.arrays.values())
        alike = len(points) == 2 and points[0] is points[1] and self.a is self.b
        return alike and not self.geometry.called and not isinstance(self.unbalanced, tuple)

    @property
    def masses(self) -> tuple[Any, Any]:
        """Total weights of both sides, ``(...)`` in float64, in the caller's graph; 1 for uniform weights."""
        pairs = zip((self.a, self.b), self.totals, strict=True)
        a, b = (_total(w) if total is None else total for w, total in pairs)
        return a, b

    @property
    def by_name(self) -> dict[str, Any]:
        """All inputs by the names of `otkit.autograd.inputs.Gradients`; a common penalty of both sides is `rho`."""
        rho = self.unbalanced
        penalties = {"rho_a": rho[0], "rho_b": rho[1]} if isinstance(rho, tuple) else {"rho": rho}
        return {**self.geometry.arrays, "a": self.a, "b": self.b, "reg": self.reg, **penalties}


def _total(w: Any) -> Any:
    return 1.0 if w is None else namespace(w).sum(arrays.float64(w), axis=-1)
