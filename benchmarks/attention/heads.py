"""ACT on all heads and on chosen ones, on a real model; run ``python benchmarks/attention/heads.py``.

Prints a Markdown table: the negative log-likelihood of the tokens after a prompt, on the places of a text that heads
were chosen on and on others. Heads are those whose calibration alone improves the first. The model and the text are
those of streams.py.
"""

import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, parser, save
from compare.tables import heading, line

from attention.streams import pretrained, step
from otkit.attention import ACT, attach, choose_heads


def places(ids, starts, size):
    return torch.cat([ids[:, start : start + size] for start in starts])


def loss(model, texts, prompt):
    """The mean of each text, of the tokens after its prompt."""
    cache = DynamicCache(config=model.config)
    logits = torch.cat([step(model, texts[:, :prompt], cache)[:, -1:], step(model, texts[:, prompt:-1], cache)], 1)
    found = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), texts[:, prompt:], reduction="none")
    return found.mean(1)


def main():
    options = parser(__doc__)
    options.add_argument("--prompt", type=int, default=128)
    options.add_argument("--after", type=int, default=64)
    options.add_argument("--places", type=int, default=3)
    options.add_argument("--others", type=int, default=16)
    options.add_argument("--threshold", type=float, default=0.1)
    args = options.parse_args()
    size = args.prompt + args.after
    with torch.no_grad():
        model, ids = pretrained()
        starts = torch.linspace(0, ids.shape[1] - size, args.places + args.others).long().tolist()
        own = [starts[round((k + 0.5) * len(starts) / args.places)] for k in range(args.places)]
        chosen_on = places(ids, own, size)
        others = places(ids, [start for start in starts if start not in own], size)
        layers, act = range(2, model.config.num_hidden_layers - 1), ACT(threshold=args.threshold)
        begin = time.perf_counter()
        heads = choose_heads(model, lambda: -float(loss(model, chosen_on, args.prompt).mean()), act=act, layers=layers)
        seconds = time.perf_counter() - begin
        every = {layer: range(model.config.num_attention_heads) for layer in layers}
        found = {}
        heading("negative log-likelihood, where heads were chosen, elsewhere, difference to plain")
        for name, chosen in (("plain", None), ("ACT, chosen heads", heads), ("ACT, all heads", every)):
            with nullcontext() if chosen is None else attach(model, act.of(chosen)):
                found[name] = [loss(model, texts, args.prompt) for texts in (chosen_on, others)]
            gain = found[name][1] - found["plain"][1]
            spread = float(gain.std() / len(gain) ** 0.5)
            line(name, *(f"{float(x.mean()):.3f}" for x in found[name]), f"{float(gain.mean()):+.3f} ± {spread:.3f}")
    count = sum(len(chosen) for chosen in heads.values())
    print(f"\n{count} of {len(layers) * model.config.num_attention_heads} heads chosen in {seconds:.0f} s")
    about = described(args, "otkit", "torch", "transformers")
    losses = {name: [x.tolist() for x in parts] for name, parts in found.items()}
    save(args.json, about | {"seconds": seconds, "heads": heads, "losses": losses})


if __name__ == "__main__":
    main()
