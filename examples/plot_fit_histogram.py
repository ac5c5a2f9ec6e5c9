"""
Fitting the colours of an image
===============================

A loss between clouds of colours trains a map between images that share no content.
"""

# %%
# Two photographs
# ---------------
# The colours of one photograph shall become those of another one. Its pixels are points in the cube of colours, and so
# are those of the target: no bins are needed, and no pixel belongs to another.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_images

from otkit.losses import SinkhornLoss

source, target = (image[::8, ::8] / 255 for image in load_sample_images().images)
rng = np.random.default_rng(0)
few = [torch.tensor(rng.permutation(image.reshape(-1, 3))[:500]) for image in (source, target)]

# %%
# A map with twelve parameters
# ----------------------------
# An affine map of colours, trained as any module. 500 pixels of either image are enough for it.

torch.manual_seed(0)
grade = torch.nn.Linear(3, 3).double()
torch.nn.init.eye_(grade.weight)
torch.nn.init.zeros_(grade.bias)
loss, optimizer = SinkhornLoss(0.01), torch.optim.Adam(grade.parameters(), lr=0.05)
losses = []
for _ in range(60):
    optimizer.zero_grad()
    value = loss(grade(few[0]), few[1])
    value.backward()
    optimizer.step()
    losses.append(float(value.detach()))
print(f"loss: {losses[0]:.4f} at the start, {losses[-1]:.4f} at the end")

# %%
# The result
# ----------

with torch.no_grad():
    graded = grade(torch.tensor(source)).clip(0, 1).numpy()
figure, panels = plt.subplots(1, 4, figsize=(11, 2.6), layout="constrained")
for axes, (title, image) in zip(panels, {"source": source, "target": target, "learned": graded}.items(), strict=False):
    axes.imshow(image)
    axes.set(title=title, xticks=[], yticks=[])
panels[3].plot(losses)
panels[3].set(xlabel="step", ylabel="loss", yscale="log")
plt.show()
