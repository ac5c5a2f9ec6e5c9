"""
Targets that cannot collapse
============================

A transformer predicts what it does not see of a clip: pixels, learned features, or their assignments to prototypes.
"""

# %%
# Clips of moving digits
# ----------------------
# A digit moves over 8 frames of 12 × 12 pixels and turns at their borders. A clip is cut into 16 tubes of 2 frames and
# 6 × 6 pixels, of which the transformer sees 4.

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from torch import nn

from otkit.losses import Prototypes, SigmaLoss, prototype_usage

SEEDS, STEPS, BATCH, WIDTH, DIM = 1, 1200, 32, 48, 32
torch.set_num_threads(1)  # the matrices are small
images, labels = (torch.tensor(v) for v in load_digits(return_X_y=True))
images = images.reshape(-1, 8, 8).float() / 16
train, test = slice(0, 1200), slice(1200, None)


def clips(images):
    """Tubes (N, 16, 72) of clips."""
    n, t, k = len(images), torch.arange(8), torch.arange(8)
    path = torch.rand(n, 1, 2) * 8 + (torch.rand(n, 1, 2) * 3 - 1.5) * t[:, None]
    corner = ((path % 8) - 4).abs().round().long()  # up to 4 and back
    frames, (y, x) = torch.zeros(n, 8, 12, 12), corner[..., None, None].unbind(2)
    frames[torch.arange(n)[:, None, None, None], t[:, None, None], y + k[:, None], x + k] = images[:, None]
    return frames.reshape(n, 4, 2, 2, 6, 2, 6).permute(0, 1, 3, 5, 2, 4, 6).reshape(n, 16, 72)


class Video(nn.Module):
    """An encoder of the tubes that are seen, and a decoder that says what the others are."""

    def __init__(self, outputs):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.decoder = nn.TransformerEncoder(layer, 1, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.embed, self.head = nn.Linear(72, WIDTH), nn.Linear(WIDTH, outputs)
        self.place, self.unseen = nn.Parameter(0.2 * torch.randn(16, WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def encode(self, tubes, places):
        return self.encoder(self.embed(tubes) + self.place[places])

    def forward(self, tubes, seen, hidden):
        tokens = torch.cat([self.encode(tubes, seen), self.unseen + self.place[hidden]], 1)
        return self.head(self.decoder(tokens)[:, seen.shape[1] :])


# %%
# Three kinds of targets
# ----------------------
# The pixels themselves; features of them by a small network that learns too, compared by their squared distance; and
# such features, compared by their assignments to prototypes. Tubes without ink are left out. What the encoder has
# learned is judged by a linear classifier on the mean of its outputs. Features that only have to be easy to predict
# become the same for all tubes, and near one prototype.


def pretrained(kind, seed):
    """A video network that has learned, the network of its targets, and the prototypes."""
    torch.manual_seed(seed)
    target = nn.Sequential(nn.Linear(72, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, DIM))
    video, sigma = Video(72 if kind == "pixels, L2" else DIM), SigmaLoss(Prototypes(64, DIM))
    optimizer = torch.optim.AdamW(nn.ModuleList([video, target, sigma]).parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS if kind != "random" else 0):
        tubes = clips(images[train][torch.randint(1200, (BATCH,))])
        seen, hidden = torch.rand(BATCH, 16).argsort(1).split([4, 12], 1)
        shown, wanted = (tubes.take_along_dim(places[..., None], 1) for places in (seen, hidden))
        found, there = video(shown, seen, hidden), wanted.sum(-1) > 0
        wanted = wanted if kind == "pixels, L2" else target(wanted)
        loss = sigma(found, wanted, mask=there) if kind == "assignments" else (found - wanted)[there].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return video, target, sigma.prototypes


@torch.no_grad()
def judged(video, target, prototypes):
    """The accuracy of the classifier on new digits, the spread of the features, and how prototypes are used."""
    parts = (clips(images[part].repeat(3, 1, 1)) for part in (train, test))
    fit, new = (video.encode(tubes, slice(None)).mean(1).double().numpy() for tubes in parts)
    classifier = RidgeClassifier(0.1).fit(fit, labels[train].repeat(3))
    features = target((tubes := clips(images[test]))[tubes.sum(-1) > 0])
    usage = prototype_usage((prototypes(features) / 0.1).softmax(-1))
    return classifier.score(new, labels[test].repeat(3)), float(features.std(0).mean()), usage


figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for kind in ("random", "pixels, L2", "features, L2", "assignments"):
    runs = [judged(*pretrained(kind, seed)) for seed in range(SEEDS)]
    panels[0].plot([kind] * SEEDS, [run[0] for run in runs], "o")
    print(f"{kind:>12}: probe", *(f"{run[0]:.3f}" for run in runs), f", spread {runs[0][1]:.3f}, {runs[0][2]}")
    if kind in ("features, L2", "assignments"):
        panels[1].plot(runs[0][2].taken.sort(descending=True).values, drawstyle="steps", label=kind)
panels[0].set(ylabel="accuracy of the probe")
panels[1].set(xlabel="prototypes, in order", ylabel="tubes", yscale="symlog")
panels[1].legend()
plt.show()
