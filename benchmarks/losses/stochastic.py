"""`otkit.losses.doubly_stochastic` beside the loop in torch; run ``python benchmarks/losses/stochastic.py``.

Prints a Markdown table: medians of the time of 20 rounds, forward and with the backward pass. The calls take turns in
one process. Results and gradients are compared first.
"""

import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import described, in_turns, parser, save, timed
from compare.tables import heading, line

from otkit.losses import doubly_stochastic

SIZES = [(4096, 4), (256, 32), (64, 4), (1, 4), (16384, 8), (64, 128)]


def loop(logits):
    P = logits.exp()
    for _ in range(20):
        P = P / P.sum(-1, keepdim=True)
        P = P / P.sum(-2, keepdim=True)
    return P


def forward(call, logits, weight):
    with torch.no_grad():
        return call(logits)


def both(call, logits, weight):
    return torch.autograd.grad((call(logits) * weight).sum(), logits)[0]


def main():
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=15)
    args, rows = options.parse_args(), []
    print(f"20 rounds, float32, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    heading(", otkit ms, torch ms, torch / otkit")
    for count, n in SIZES:
        logits, weight = torch.randn(2, count, n, n, generator=torch.Generator().manual_seed(0))
        logits.requires_grad_()
        for passes in (forward, both):
            calls = [partial(passes, call, logits, weight) for call in (doubly_stochastic, loop)]
            torch.testing.assert_close(*(call() for call in calls), rtol=0, atol=1e-5)
            turns = in_turns({k: partial(timed, call) for k, call in enumerate(calls)}, args.repeat)
            own, other = (1e3 * median(s for _, s in turns[k]) for k in range(2))
            line(f"{count} × {n} × {n}, {passes.__name__}", f"{own:.3g}", f"{other:.3g}", f"{other / own:.2g}")
            rows.append({"count": count, "n": n, "passes": passes.__name__, "otkit": own, "torch": other})
    about = described(args, "otkit", "torch", "numba") | {"threads": torch.get_num_threads()}
    save(args.json, about | {"rows": rows})


if __name__ == "__main__":
    main()
