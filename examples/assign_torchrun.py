"""
Assignments in two processes
============================

Two processes with 4 and 2 samples assign them as one process with 6 would; run it by
``torchrun --nproc_per_node 2 examples/assign_torchrun.py``.
"""

import torch
import torch.distributed as dist

from otkit.losses import Prototypes, SwappedPredictionLoss, assign

dist.init_process_group("gloo")
rank = dist.get_rank()
rows = slice(0, 4) if rank == 0 else slice(4 if rank == 1 else 6, 6)

torch.manual_seed(0)
prototypes = Prototypes(3, 8)
views = torch.randn(2, 6, 8)
scores = prototypes(views).detach()
alone = [dist.new_group([k]) for k in range(dist.get_world_size())][rank]

together = assign(scores[0, rows])
whole = assign(scores[0], group=alone)
print(f"process {rank}, {len(together)} samples: at most {(together - whole[rows]).abs().max():.1e} from one process")

loss = SwappedPredictionLoss()(prototypes(views[:, rows]))
loss.backward()
dist.all_reduce(prototypes.weight.grad)  # as DistributedDataParallel does
gradient = prototypes.weight.grad / dist.get_world_size()
(wanted,) = torch.autograd.grad(SwappedPredictionLoss(group=alone)(prototypes(views)), prototypes.weight)
print(f"process {rank}: loss {loss:.4f}, gradient at most {(gradient - wanted).abs().max():.1e} from one process")
dist.destroy_process_group()
