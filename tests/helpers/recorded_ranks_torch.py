"""Two processes of PyTorch that record a training loop. Started by `torch.distributed.run` with the folder of the recording."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import parity
from helpers.recorded_loop_torch import batches, make, make_optimizer

if __name__ == "__main__":
    dist.init_process_group("gloo")
    net = make("float64")
    wrapped = DistributedDataParallel(net, broadcast_buffers=False)
    optimizer = make_optimizer(net)
    with parity.record(wrapped, optimizer, Path(sys.argv[1]), steps=2):
        for images, labels in batches(2, dist.get_rank()):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(torch.from_numpy(images)), torch.from_numpy(labels)).backward()
            optimizer.step()
    dist.destroy_process_group()
    # DDP's threads outlive the group. One that still holds a tensor when the interpreter ends aborts it.
    os._exit(0)
