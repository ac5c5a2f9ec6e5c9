"""
An attention sink
=================

Attention whose mass mostly goes to a first key without a value: what the metric says, and what a window loses.
"""

# %%
# A planted sink
# --------------
# A head of 256 tokens prefers what is near, by parts of its queries and keys that rotate with the position. All queries
# also meet the first key in one more dimension, by a large logit, and its value is 0. It is a place for attention that
# is not needed, as most heads of language models have one.

import matplotlib.pyplot as plt
import torch

from otkit.attention import importance, redistribute, sink_rate, streaming_attention

TOKENS, PAIRS, LOGIT = 256, 16, 16.0
torch.manual_seed(0)
angles = torch.arange(TOKENS)[:, None] / 1.6 ** torch.arange(PAIRS)
place = torch.cat([angles.cos(), angles.sin()], 1)
content = torch.randn(2, TOKENS, 8)
query = torch.cat([0.6 * place, 0.5 * content[0], torch.ones(TOKENS, 1)], 1)
key = torch.cat([place, 0.5 * content[1], torch.zeros(TOKENS, 1)], 1)
value = torch.randn(TOKENS, 8)
key[0], value[0] = 0.0, 0.0
key[0, -1] = LOGIT
query, key, value = query[None, None], key[None, None], value[None, None]

seen = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
weights = (query @ key.mT).masked_fill(~seen, -torch.inf).softmax(-1)

# %%
# What it is measured by
# ----------------------
# The importance of a key is the mean weight that it gets from the queries that see it. A sink is a key above 0.3. For
# all layers and heads of a model, `SinkMeter` sums that. `ACT` and `VAR` move mass from sinks to other keys, in
# proportion to what these have.

received = importance(weights)[0, 0]
first = torch.arange(TOKENS) == 0
calibrated = redistribute(weights, first, ~first, share=0.9)
print(f"importance of the first key {received[0]:.3f}, the largest of the others {received[1:-9].max():.3f}")
print(f"share of heads with a sink there {sink_rate(weights):.0%}, of heads with one at the second key", end=" ")
print(f"{sink_rate(weights, key=1):.0%}")

# %%
# What a window loses
# -------------------
# A cache of the latest 36 keys has no sink in it. Its softmax spreads all of the mass over keys that would have got
# nearly none, and the output is two hundred times too large. With the first 4 keys and the latest 32, it is nearly that
# of all keys.

full = weights @ value
errors = {}
for label, sinks, window in (("36 latest", 0, 36), ("4 first, 32 latest", 4, 32)):
    found = streaming_attention(query, key, value, sinks=sinks, window=window, scale=1.0)
    errors[label] = ((found - full).norm(dim=-1) / full[:, :, 1:].norm(dim=-1).median())[0, 0]
    print(f"{label}: error after token 64, relative to the output, {errors[label][64:].median():.2g}")

figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
image = panels[0].imshow(weights[0, 0, :48, :48].clamp(min=1e-6).numpy(), norm="log", cmap="magma", aspect="auto")
figure.colorbar(image, label="weight")
panels[0].set(xlabel="key", ylabel="query", title="attention of the first tokens")
panels[1].semilogy(received[:-9], label="as it is")
panels[1].semilogy(importance(calibrated)[0, 0, :-9], label="a tenth left at the first key")
panels[1].axhline(0.3, color="gray", linestyle=":", label="a sink is above")
panels[1].set(xlabel="key", ylabel="importance", title="what keys receive")
panels[1].legend()
for label, error in errors.items():
    panels[2].semilogy(error.clamp(min=1e-7), label=label)
panels[2].set(xlabel="token", ylabel="relative error", title="keys in a cache")
panels[2].legend()
plt.show()
