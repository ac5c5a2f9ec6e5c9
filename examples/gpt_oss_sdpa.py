"""
Sink logits on fast kernels
===========================

A model of the kind of gpt-oss learns with its own attention and with `sink_attention`: the same losses, in less time
and memory. Its own holds a map of all pairs of tokens, since PyTorch's kernels know no sink logits. Run it by
``python examples/gpt_oss_sdpa.py``; it takes half a minute, and needs transformers.
"""

import argparse
import time
from contextlib import nullcontext

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from otkit.attention import attach, sink_attention


def small():
    """A model with random weights, the same each time; layers with and without a window alternate."""
    torch.manual_seed(0)
    return GptOssForCausalLM(
        GptOssConfig(
            vocab_size=64, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=2, head_dim=32, sliding_window=128, num_local_experts=2, num_experts_per_tok=1,
            pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def trained(attention, length, steps):
    """Losses, seconds a step, the memory of the first step in MiB, and the sink logits that were learned."""
    model, losses = small(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    make = torch.Generator().manual_seed(0)
    with attach(model, attention=attention) if attention else nullcontext():
        for step in range(steps):
            half = torch.randint(64, (1, length // 2), generator=make)
            ids = torch.cat([half, half], 1)  # the second half can be copied from the first
            with torch.profiler.profile(profile_memory=True) if step == 0 else nullcontext() as profile:
                loss = model(ids, labels=ids, use_cache=False).loss
                loss.backward()
            if step == 0:
                memory, start = peak(profile), time.perf_counter()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    seconds = (time.perf_counter() - start) / max(steps - 1, 1)
    return losses, seconds, memory, torch.stack([layer.self_attn.sinks.detach() for layer in model.model.layers])


def peak(profile):
    """The most MiB of tensors held at a time."""
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def main():
    """Print what both ways of training give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    runs = {"its own": trained(None, args.length, args.steps)}
    runs["sink_attention"] = trained(sink_attention, args.length, args.steps)
    for name, (losses, seconds, memory, _) in runs.items():
        print(f"{name:>14}: loss {losses[0]:.4f} to {losses[-1]:.4f}, {1e3 * seconds:.0f} ms a step, {memory:.0f} MiB")
    own, fast = runs.values()
    print(f"largest difference of losses {max(abs(a - b) for a, b in zip(own[0], fast[0], strict=True)):.1e}", end=", ")
    print(f"of sink logits {float((own[3] - fast[3]).abs().max()):.1e}")


if __name__ == "__main__":
    main()
