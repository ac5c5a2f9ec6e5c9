"""The caller's inputs, by which gradients are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otkit import arrays
from otkit.arrays import namespace
from otkit.geometry.base import GivenGeometry


@dataclass(frozen=True)
class Given:
    """The caller's inputs, unchanged: the leaves of the backward pass.

    Attributes
    ----------
    geometry : GivenGeometry
    a, b, reg, unbalanced
        Arrays, numbers or None.
    """

    geometry: GivenGeometry
    a: Any
    b: Any
    reg: Any
    unbalanced: Any

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies and pickles, detached from autograd's graph."""
        rho = self.unbalanced
        rho = tuple(map(arrays.detached, rho)) if isinstance(rho, tuple) else arrays.detached(rho)
        rest = {name: arrays.detached(getattr(self, name)) for name in ("a", "b", "reg")}
        return {"geometry": self.geometry.detached(), "unbalanced": rho, **rest}

    @property
    def masses(self) -> tuple[Any, Any]:
        """Total weights of both sides, ``(...)`` in float64, in the caller's graph; 1 for uniform weights."""
        a, b = (1.0 if w is None else namespace(w).sum(arrays.float64(w), axis=-1) for w in (self.a, self.b))
        return a, b

    @property
    def by_name(self) -> dict[str, Any]:
        """All inputs by the names of `otkit.autograd.inputs.Gradients`; a common penalty of both sides is `rho`."""
        rho = self.unbalanced
        penalties = {"rho_a": rho[0], "rho_b": rho[1]} if isinstance(rho, tuple) else {"rho": rho}
        return {**self.geometry.arrays, "a": self.a, "b": self.b, "reg": self.reg, **penalties}
