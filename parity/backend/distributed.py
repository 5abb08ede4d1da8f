"""What the processes of a group sum and share. `parity.process_group` describes the group itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parity.backend.protocol import Backend, Tensor


def sum_values(backend: Backend, values: Sequence[float], device: str) -> list[float]:
    """The sums of `values` over the processes, in float64."""
    tensor = backend.from_numpy(np.array(values, np.float64), device)
    backend.all_reduce(tensor)
    sums: list[float] = tensor.tolist()
    return sums


def from_first(backend: Backend, data: bytes, device: str) -> bytes:
    """The `data` of rank 0, on all ranks."""
    size = backend.from_numpy(np.array([len(data)]), device)
    backend.broadcast(size)
    tensor = backend.from_numpy(np.resize(np.frombuffer(data, np.uint8), size.item()), device)
    backend.broadcast(tensor)
    return backend.to_numpy(tensor).tobytes()


def sum_gradients(backend: Backend, parameters: Sequence[Tensor], averaged_over: int = 0) -> None:
    """Replace the gradients of `parameters` by their sums over the processes.

    Every process has divided its loss by the global number of images, so the sum is the gradient of the whole batch. If a wrapped model
    has already averaged the gradients over `averaged_over` processes, multiply them by that number, which is exact for powers of two.
    """
    gradients = [parameter.grad for parameter in parameters]
    if not averaged_over:
        _sum(backend, gradients)
        return
    for gradient in gradients:
        backend.assign(gradient, backend.times(gradient, averaged_over))


def average_statistics(backend: Backend, statistics: Sequence[Tensor], count: int, device: str) -> None:
    """Replace `statistics` by their mean over the images of all processes; this process had `count` images."""
    if not statistics:
        return
    images = backend.from_numpy(np.full(1, count, backend.to_numpy(statistics[0]).dtype), device)
    with backend.no_grad():
        for tensor in statistics:
            backend.assign(tensor, backend.times(tensor, count))
        _sum(backend, [*statistics, images])
        for tensor in statistics:
            backend.assign(tensor, backend.times(tensor, 1 / images.item()))


def _sum(backend: Backend, tensors: Sequence[Tensor]) -> None:
    """Sum every tensor over the processes, in one message for all tensors."""
    with backend.no_grad():
        flat = backend.concatenate([tensor.reshape([-1]) for tensor in tensors])
        backend.all_reduce(flat)
        parts = flat.split([math.prod(tensor.shape) for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            backend.assign(tensor, part.reshape(tensor.shape))
