"""Two processes of Paddle that record a training loop. Started by `paddle.distributed.launch` with the folder of the recording."""

from __future__ import annotations

import sys
from pathlib import Path

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F

import parity
from helpers.recorded_loop_paddle import batches, make, make_optimizer

if __name__ == "__main__":
    dist.init_parallel_env()
    net = make("float64")
    wrapped = paddle.DataParallel(net)
    optimizer = make_optimizer(net)
    with parity.record(wrapped, optimizer, Path(sys.argv[1]), steps=2):
        for images, labels in batches(2, dist.get_rank()):
            optimizer.clear_grad()
            F.cross_entropy(wrapped(paddle.to_tensor(images)), paddle.to_tensor(labels)).backward()
            optimizer.step()
    dist.destroy_process_group()
