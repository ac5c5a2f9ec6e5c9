"""Pairs of minibatches beside torchcfm's sampler, in ms, in turns; run ``python benchmarks/losses/coupling.py``.

It needs torchcfm, of which only ``torchcfm.optimal_transport`` is imported: ``pip install --no-deps torchcfm pot``.
"""

import importlib.util
import sys
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import in_turns, parser, timed

from otkit.losses import coupled


def sampler():
    """The class of torchcfm, without its package, which imports what it needs for training."""
    package = importlib.util.find_spec("torchcfm")
    path = Path(package.origin).parent / "optimal_transport.py"
    spec = importlib.util.spec_from_file_location("optimal_transport", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OTPlanSampler


def main():
    parser(__doc__).parse_args()
    warnings.simplefilter("ignore")
    make, rng = sampler(), np.random.default_rng(0)
    print(
        "| samples | entries | plan | otkit | torchcfm | ratio | mean cost of a pair |\n|---|---|---|---|---|---|---|"
    )
    for n, d in ((64, 2), (256, 2), (256, 784), (512, 3072)):
        generator = torch.Generator().manual_seed(0)
        x0, x1 = torch.randn(n, d, generator=generator), torch.rand(n, d, generator=generator)
        scale = float((torch.cdist(x0, x1) ** 2).mean())
        for name, options, theirs in (
            ("exact", {}, make("exact")),
            ("entropic", {"reg": 0.05 * scale}, make("sinkhorn", reg=0.05 * scale)),
        ):
            calls = {
                "otkit": lambda x0=x0, x1=x1, options=options: timed(lambda: coupled(x0, x1, rng=rng, **options)),
                "torchcfm": lambda x0=x0, x1=x1, theirs=theirs: timed(lambda: theirs.sample_plan(x0, x1)),
            }
            found = in_turns(calls, 3, 0.5)
            ours, other = (1e3 * median(seconds for _, seconds in turns) for turns in found.values())
            costs = [
                np.mean([float((pair[0] - pair[1]).square().sum(-1).mean()) for pair, _ in turns])
                for turns in found.values()
            ]
            times = f"{ours:.2f} | {other:.2f} | {other / ours:.1f}"
            print(f"| {n} | {d} | {name} | {times} | {costs[0]:.4g}, {costs[1]:.4g} |")


if __name__ == "__main__":
    main()
