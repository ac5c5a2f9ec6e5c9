"""Attention with sink logits and in groups; run ``python benchmarks/attention/functions.py``.

Prints a Markdown table: the time of a forward and backward pass beside the attention of PyTorch and beside the eager
attention of gpt-oss, and the most memory of tensors held beyond the arguments. Calls take turns in one process.
"""

import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, save, timed
from compare.tables import heading, line

from otkit.attention import grouped_attention, sink_attention


def eager(query, key, value, sink):
    """The attention of gpt-oss as transformers computes it."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    logits = query @ key.mT * query.shape[-1] ** -0.5
    above = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    column = sink.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
    joined = torch.cat([logits.masked_fill(above, -torch.inf), column], -1)
    return torch.softmax(joined - joined.amax(-1, keepdim=True), -1)[..., :-1] @ value


def plain(query, key, value, sink):
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    return sdpa(query, key, value, is_causal=True) + 0 * sink.sum()


def grouped(query, key, value, sink, group):
    return grouped_attention(query, key, value, group=group) + 0 * sink.sum()


def step(call, inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    call(*leaves).square().sum().backward()


def peak(call, inputs):
    """The most bytes of tensors held at a time, above those of the beginning."""
    held = most = 0
    with torch.profiler.profile(profile_memory=True) as profile:
        step(call, inputs)
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main():
    options = parser(__doc__)
    options.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    options.add_argument("--group", type=int, default=512)
    options.add_argument("--repeat", type=int, default=7)
    args = options.parse_args()
    calls = {
        "sink_attention": sink_attention,
        "eager, with sink logits": eager,
        "sdpa, causal": plain,
        f"grouped_attention, {args.group}": partial(grouped, group=args.group),
    }
    rows = []
    heading(", ".join(["ms (MiB)", *(f"{n} tokens" for n in args.lengths)]))
    for length in args.lengths:
        make = torch.Generator().manual_seed(0)
        inputs = [torch.randn(1, heads, length, 64, generator=make) for heads in (8, 2, 2)] + [torch.zeros(8)]
        found = in_turns({name: partial(timed, step, call, inputs) for name, call in calls.items()}, args.repeat)
        for name, call in calls.items():
            seconds = median(s for _, s in found[name])
            rows.append({"name": name, "length": length, "seconds": seconds, "bytes": peak(call, inputs)})
    for name in calls:
        own = [row for row in rows if row["name"] == name]
        line(name, *(f"{1e3 * row['seconds']:.0f} ({row['bytes'] / 2**20:.0f})" for row in own))
    about = described(args, "otkit", "torch") | {"threads": torch.get_num_threads()}
    save(args.json, about | {"rows": rows})


if __name__ == "__main__":
    main()
