"""Several processes in Paddle: what they sum and share. What they do together is decided in `parity.process_group`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddle_impl.layers import times
from parity.errors import InputError
from parity.process_group import ProcessGroup

# DIFFERS: on the CPU, a process that is lost within the wrapper's backward pass ends all others by abort(), past every handler.
OVERLAPPING = ("gpu",)
"""Devices on which the framework's own wrapper sums gradients while the backward pass still runs; elsewhere they are summed behind it."""


def start(process_group: ProcessGroup, device: str) -> None:
    """Joins the processes of `process_group`: over gloo on the CPU, over NCCL on GPUs, one for each process.

    `InputError` where a machine has fewer GPUs than processes. The GPU's part has never been run.
    """
    if device == "gpu" and process_group.local_rank >= paddle.device.cuda.device_count():
        raise InputError(
            f"{process_group.local_size} processes share {paddle.device.cuda.device_count()} GPUs: start fewer"
        )
    # DIFFERS: over gloo a process waits 30 s for another one, then takes it for lost; nothing sets that.
    dist.init_parallel_env()


def stop() -> None:
    """Leaves the group of processes; all do so at the end of the run."""
    dist.destroy_process_group()


def total(values: Sequence[float], place: paddle.CPUPlace | paddle.CUDAPlace) -> list[float]:
    """Sums of `values` over the processes, in float64."""
    tensor = paddle.to_tensor(values, "float64", place)
    dist.all_reduce(tensor)
    return tensor.tolist()


def from_first(data: bytes, place: paddle.CPUPlace | paddle.CUDAPlace) -> bytes:
    """What the first process gives as `data`, on all."""
    size = paddle.to_tensor([len(data)], place=place)
    dist.broadcast(size, 0)
    buffer = np.resize(np.frombuffer(data, np.uint8), size.item())
    tensor = paddle.to_tensor(buffer, place=place)
    dist.broadcast(tensor, 0)
    return tensor.numpy().tobytes()


def wrap(model: nn.Layer, device: str) -> nn.Layer:
    """The model whose backward pass averages gradients over the processes, on a device where it does; elsewhere the model itself."""
    return paddle.DataParallel(model) if device in OVERLAPPING else model


def sum_gradients(model: nn.Layer, parameters: Sequence[Tensor]) -> None:
    """Gradients of `parameters` become their sums over the processes; `model` is what `wrap` returned.

    The wrapper's are averages. Every process has divided its loss by the global count, so they are multiplied by the number of processes
    again, which is exact for powers of two.
    """
    gradients = [parameter.grad for parameter in parameters]
    if isinstance(model, paddle.DataParallel):
        for gradient in gradients:
            paddle.assign(times(gradient, dist.get_world_size()), gradient)
    else:
        _sum(gradients)


def average_statistics(statistics: Sequence[Tensor], count: int) -> None:
    """`statistics` become their mean over all images, `count` of which were this process's."""
    if statistics:
        images = paddle.full([1], count, statistics[0].dtype)
        with paddle.no_grad():
            for tensor in statistics:
                paddle.assign(times(tensor, count), tensor)
            _sum([*statistics, images])
            for tensor in statistics:
                paddle.assign(times(tensor, 1 / images.item()), tensor)


def _sum(tensors: Sequence[Tensor]) -> None:
    """Sums every tensor over the processes, all in one message."""
    with paddle.no_grad():
        flat = paddle.concat([tensor.reshape([-1]) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.size for tensor in tensors]), strict=True):
            paddle.assign(part.reshape(tensor.shape), tensor)
