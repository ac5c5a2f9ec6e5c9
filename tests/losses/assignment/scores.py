"""Scores and features that tests of assignments share."""

import torch
from torch.nn import functional

from otkit.losses import Prototypes


def double(values):
    return torch.tensor(values, dtype=torch.float64)


S1 = double([[0.9, 0.1, -0.3], [0.8, 0.2, 0], [0.7, -0.1, 0.1], [0.1, 0.6, 0.2], [-0.2, 0.3, 0.5], [0.85, 0.4, -0.5]])
S2 = double([[0.7, 0.2, -0.1], [0.5, 0.4, 0.1], [0.6, 0, 0.3], [0.2, 0.5, 0.1], [0, 0.1, 0.6], [0.4, 0.6, -0.2]])
VIEWS = torch.stack([S1, S2])


def cosines(n=200, k=30, dim=16, seed=0, lead=()):
    generator = torch.Generator().manual_seed(seed)
    x, c = (torch.randn(*lead, rows, dim, generator=generator, dtype=torch.float64) for rows in (n, k))
    return functional.normalize(x, dim=-1) @ functional.normalize(c, dim=-1).mT


def exact(scores, reg, n_iters):
    """Iterations by logsumexp in float64, whatever the range of the scores."""
    L, f = scores.double() / reg, 0.0
    for _ in range(n_iters):
        g = -(L + f).logsumexp(0, keepdim=True)
        f = -(L + g).logsumexp(1, keepdim=True)
    return (L + f + g).exp()


def features(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def prototypes(count=5, dim=4, dtype=torch.float64):
    torch.manual_seed(0)
    return Prototypes(count, dim).to(dtype)
