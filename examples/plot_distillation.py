"""
Distilling a small network
==========================

SinKD beside the divergences that are commonly distilled with, on clean labels and on wrong ones.
"""

# %%
# A teacher and many students
# ---------------------------
# The teacher has seen 1,000 digits with their right labels. The students are small and see 300 of them; their labels
# are right, or half of them drawn at random. They differ in nothing but the loss; each has five seeds.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from otkit.losses import DistillationObjective, SinKDLoss

pixels, digits = load_digits(return_X_y=True)
parts = train_test_split(pixels.astype(np.float32) / 16, digits, random_state=0)
x, x_test, y, y_test = (torch.tensor(v) for v in parts)


def network(width):
    """One hidden layer."""
    return torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))


def trained(model, objective, x, soft, labels, epochs=25, size=50):
    """The share of test digits that the model gets right after some epochs."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(size):
            optimizer.zero_grad()
            objective(model(x[rows]), soft[rows], labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(x_test).argmax(-1) == y_test).double().mean())


torch.manual_seed(0)
teacher, labels_only = network(128), DistillationObjective(kd=0, ot=0)
score = trained(teacher, labels_only, x[:1000], torch.zeros(1000, 10), y[:1000])
with torch.no_grad():
    soft = teacher(x[:300])
objectives = {
    "labels": labels_only,
    "KL": DistillationObjective(ot=0, temperature=2.0),
    "reverse KL": DistillationObjective(ot=0, temperature=2.0, divergence="reverse_kl"),
    "JS": DistillationObjective(ot=0, temperature=2.0, divergence="js"),
    "SinKD": DistillationObjective(SinKDLoss(), kd=0),
    "KL and SinKD": DistillationObjective(SinKDLoss(), temperature=2.0),
}

# %%
# What they have learned
# ----------------------
# With right labels there is nothing to gain. With wrong ones every loss helps, SinKD on its own least: the transport
# does not see which prediction belongs to which digit, only how those of a batch should be spread. Beside KL it adds
# nothing here, and KL and reverse KL do equally well.

print(f"teacher: {score:.1%} of the test digits")
figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
for axes, wrong in zip(panels, (0.0, 0.5), strict=True):
    found = {name: [] for name in objectives}
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(10, (300,), generator=generator)
        labels = torch.where(torch.rand(300, generator=generator) < wrong, drawn, y[:300])
        for name, objective in objectives.items():
            torch.manual_seed(seed)
            found[name].append(trained(network(16), objective, x[:300], soft, labels))
    for name, scores in found.items():
        print(f"{wrong:.0%} random labels, {name}: {np.mean(scores):.1%} ± {np.std(scores):.1%}")
    axes.boxplot([100 * np.array(v) for v in found.values()], orientation="horizontal", tick_labels=list(found))
    axes.set(xlabel="right, %", title=f"{wrong:.0%} random labels")
plt.show()
