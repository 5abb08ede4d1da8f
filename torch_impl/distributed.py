"""Several processes in PyTorch: what they sum and share. What they do together is decided in `parity.process_group`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from parity.errors import InputError
from parity.process_group import ProcessGroup
from torch_impl.layers import times

OVERLAPPING = ("cpu", "gpu")
"""Devices on which the framework's own wrapper sums gradients while the backward pass still runs; elsewhere they are summed behind it."""


def start(process_group: ProcessGroup, device: str) -> None:
    """Joins the processes of `process_group`: over gloo on the CPU, over NCCL on GPUs, one for each process.

    `InputError` where a machine has fewer GPUs than processes. The GPU's part has never been run.
    """
    if device == "gpu":
        if process_group.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"{process_group.local_size} processes share {torch.cuda.device_count()} GPUs: start fewer"
            )
        torch.cuda.set_device(process_group.local_rank)
    dist.init_process_group("nccl" if device == "gpu" else "gloo")


def stop() -> None:
    """Leaves the group of processes; all do so at the end of the run."""
    # DDP's reducer keeps the group's threads beyond this. One that still held a tensor when the interpreter ended would abort it
    # ("terminate called without an active exception", seen once under load).
    time.sleep(0.1)
    dist.destroy_process_group()


def total(values: Sequence[float], place: torch.device) -> list[float]:
    """Sums of `values` over the processes, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=place)
    dist.all_reduce(tensor)
    return tensor.tolist()


def from_first(data: bytes, place: torch.device) -> bytes:
    """What the first process gives as `data`, on all."""
    size = torch.tensor([len(data)], device=place)
    dist.broadcast(size, 0)
    buffer = np.resize(np.frombuffer(data, np.uint8), size.item())
    tensor = torch.from_numpy(buffer).to(place)
    dist.broadcast(tensor, 0)
    return tensor.cpu().numpy().tobytes()


def wrap(model: nn.Module, device: str) -> nn.Module:
    """The model whose backward pass averages gradients over the processes, on a device where it does; elsewhere the model itself."""
    if device not in OVERLAPPING:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions have another name for what older ones need
        # Not the first process's running statistics: see `average_statistics`.
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def sum_gradients(model: nn.Module, parameters: Sequence[Tensor]) -> None:
    """Gradients of `parameters` become their sums over the processes; `model` is what `wrap` returned.

    The wrapper's are averages. Every process has divided its loss by the global count, so they are multiplied by the number of processes
    again, which is exact for powers of two.
    """
    gradients = [parameter.grad for parameter in parameters]
    if isinstance(model, nn.parallel.DistributedDataParallel):
        for gradient in gradients:
            gradient.copy_(times(gradient, dist.get_world_size()))
    else:
        _sum(gradients)


def average_statistics(statistics: Sequence[Tensor], count: int) -> None:
    """`statistics` become their mean over all images, `count` of which were this process's."""
    if statistics:
        images = torch.full([1], count, dtype=statistics[0].dtype, device=statistics[0].device)
        with torch.no_grad():
            for tensor in statistics:
                tensor.copy_(times(tensor, count))
            _sum([*statistics, images])
            for tensor in statistics:
                tensor.copy_(times(tensor, 1 / images.item()))


def _sum(tensors: Sequence[Tensor]) -> None:
    """Sums every tensor over the processes, all in one message."""
    with torch.no_grad():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.reshape(tensor.shape))
