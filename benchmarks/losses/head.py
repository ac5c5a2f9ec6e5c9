"""Peak memory and time of a loss from hidden states and the weights of a head, beside the weights and the states.

Run it by ``python benchmarks/losses/head.py --rows 1024 --entries 151936 --width 2048``.
"""

import argparse
import time
from pathlib import Path

import torch

from otkit.losses import Head, SinKDLoss, SoftTargetLoss, TopK, ULDLoss

LOSSES = {"kl": SoftTargetLoss("kl"), "uld": ULDLoss(topk=64), "sinkd": SinKDLoss()}


def peak():
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--entries", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--loss", choices=LOSSES, default="kl")
    parser.add_argument("--teacher", choices=["topk", "head"], default="topk")
    parser.add_argument("--plain", action="store_true", help="with all logits in memory")
    options = parser.parse_args()
    torch.manual_seed(0)

    def head():
        weight = torch.empty(options.entries, options.width, dtype=torch.bfloat16).normal_(0, options.width**-0.5)
        return Head(torch.randn(options.rows, options.width).bfloat16().requires_grad_(), weight.requires_grad_())

    student = head()
    top = torch.log_softmax(torch.randn(options.rows, 4096), -1).topk(64, -1)
    teacher = TopK(top.indices, top.values) if options.teacher == "topk" else head().detach()
    before, start = peak(), time.perf_counter()
    logits = student.hidden @ student.weight.T if options.plain else student
    LOSSES[options.loss](logits, teacher).backward()
    seconds = time.perf_counter() - start
    print(f"{options}: {(peak() - before) / 2**30:.2f} GiB beside the weights and hidden states, {seconds:.0f} s")


if __name__ == "__main__":
    main()
