"""Sinkhorn iterations between samples and prototypes."""

import torch
from scores import cosines

from otkit.losses import assign
from otkit.losses.assignment import balance


def test_blocks_do_not_matter(monkeypatch):
    scores = cosines(lead=(2,))
    whole = assign(scores, n_iters=5, mass=0.8)
    monkeypatch.setitem(balance.BLOCK, "cpu", 500)
    torch.testing.assert_close(assign(scores, n_iters=5, mass=0.8), whole, rtol=0, atol=1e-14)
