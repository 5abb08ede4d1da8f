"""Several processes: what they sum and share. What they do together is decided in `parity.process_group`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parity.backend.protocol import Backend, Tensor


def total(backend: Backend, values: Sequence[float], device: str) -> list[float]:
    """Sums of `values` over the processes, in float64."""
    tensor = backend.from_numpy(np.array(values, np.float64), device)
    backend.all_reduce(tensor)
    sums: list[float] = tensor.tolist()
    return sums


def from_first(backend: Backend, data: bytes, device: str) -> bytes:
    """What the process of rank 0 gives as `data`, on all."""
    size = backend.from_numpy(np.array([len(data)]), device)
    backend.broadcast(size)
    tensor = backend.from_numpy(np.resize(np.frombuffer(data, np.uint8), size.item()), device)
    backend.broadcast(tensor)
    return backend.to_numpy(tensor).tobytes()


def sum_gradients(backend: Backend, parameters: Sequence[Tensor], averaged_over: int = 0) -> None:
    """Gradients of `parameters` become their sums over the processes.

    Those that a wrapped model has averaged over `averaged_over` processes are multiplied by their number, which is exact for powers of
    two: every process has divided its loss by the global count.
    """
    gradients = [parameter.grad for parameter in parameters]
    if not averaged_over:
        _sum(backend, gradients)
        return
    for gradient in gradients:
        backend.assign(gradient, backend.times(gradient, averaged_over))


def average_statistics(backend: Backend, statistics: Sequence[Tensor], count: int, device: str) -> None:
    """`statistics` become their mean over all images, `count` of which were this process's."""
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
    """Sums every tensor over the processes, all in one message."""
    with backend.no_grad():
        flat = backend.concatenate([tensor.reshape([-1]) for tensor in tensors])
        backend.all_reduce(flat)
        parts = flat.split([math.prod(tensor.shape) for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            backend.assign(tensor, part.reshape(tensor.shape))
