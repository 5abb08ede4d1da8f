"""Functions whose Paddle kernels are slow on CPU, in training (docs/performance.md). No output can be differentiated twice."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from parity.arrays import Array

_BLOCK = 1 << 16
"""At most so many elements of each array are computed at once: they stay in the cache between two operations."""


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether `x` is computed eagerly on the CPU, and not traced for an export."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def has_array(x: Tensor) -> bool:
    """Whether `x` is computed eagerly on the CPU in float32 or float64, so that `array` can share its memory with numpy."""
    return is_eager_on_cpu(x) and x.dtype in (paddle.float32, paddle.float64)


def trains(x: Tensor) -> bool:
    """Whether `has_array(x)`, and a gradient of `x` will be computed."""
    return has_array(x) and paddle.is_grad_enabled() and not x.stop_gradient


def array(x: Tensor) -> Array:
    """A writable numpy array in the memory of `x`, which must be contiguous on the CPU and live as long as the array."""
    dtype = np.dtype(str(x.dtype).rpartition(".")[2])
    # DIFFERS: the method numpy() copies.
    memory = (ctypes.c_byte * (x.size * dtype.itemsize)).from_address(x.data_ptr())
    return np.frombuffer(memory, dtype).reshape(x.shape)


def blocks(arrays: Sequence[Array]) -> Iterator[list[Array]]:
    """The rows of `arrays`, which have one shape [N,L], in blocks of at most `_BLOCK` elements, but at least one row."""
    rows = max(1, _BLOCK // arrays[0].shape[1])
    for first in range(0, len(arrays[0]), rows):
        yield [array[first : first + rows] for array in arrays]


def relu(x: Tensor) -> Tensor:
    """ReLU, for an `x` that trains. The gradient at 0 is 0."""
    return _ReLU.apply(x)


def multiply_by_mask(x: Tensor, mask: Tensor) -> Tensor:
    """`x` * `mask` (boolean, in the shape of `x`)."""
    if has_array(x) and mask.dtype == paddle.bool and mask.shape == x.shape:
        return _MaskedProduct.apply(x, mask)
    return x * mask.astype(x.dtype)


def max_pool2d(x: Tensor, size: int, stride: int, padding: Sequence[int]) -> Tensor:
    """Max pooling with symmetric `padding` (above, left), for an `x` that trains. The first maximum of a window receives its gradient."""
    out, places = F.max_pool2d(x, size, stride, padding, return_mask=True)
    # DIFFERS: the kernel that records the places passes over NaN. In a window without a number, the place is -1, and the gradient is
    # written outside of its memory.
    if places.min().item() >= 0 and np.isfinite(np.einsum("nchw->", array(x.contiguous()))):
        return out
    return F.max_pool2d(x, size, stride, padding)


def convolve_turned(x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The convolution of stride 1 with symmetric `padding` (above, left), less than the kernel's size, for an `x` that trains."""
    return _Turned.apply(x, weight, padding)


def convolve_densely(x: Tensor, weight: Tensor, taps: Array) -> Tensor:
    """The convolution of `x` [N,C,H,W] with `weight` [K,C,k,k] as one product of matrices -> [N,K,Q], for Q output pixels.

    `taps` [Q,k*k,H*W] is 1 where an output pixel multiplies that tap of the kernel by that input pixel, else 0.
    """
    return _Dense.apply(x, weight, paddle.to_tensor(taps, x.dtype))


def _masked(x: Tensor, mask: Tensor, is_on: Callable[[Array], Array]) -> Tensor:
    """`x` where `is_on` of the array `mask`, in the shape of `x`, is true, else `x` * 0."""
    x, mask = x.contiguous(), mask.contiguous()
    product = paddle.empty_like(x)
    arrays = [array(tensor).reshape(len(tensor), -1) for tensor in (x, mask, product)]
    for values, marks, out in blocks(arrays):
        # DIFFERS: the kernels that convert booleans, and numpy's products with booleans, are slow.
        np.multiply(values, is_on(marks).astype(values.dtype), out=out)
    return product


class _ReLU(PyLayer):
    """ReLU with a gradient in one pass over the memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = F.relu(x)
        ctx.out = out.detach()  # the output itself would keep this context
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        out, ctx.out = ctx.out, None  # the graph keeps its contexts until all gradients are computed
        return _masked(gradient, out, lambda out: out > 0)


class _MaskedProduct(PyLayer):
    """The product with a boolean mask, which is kept as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.mask = mask
        return _masked(x, mask, lambda mask: mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        mask, ctx.mask = ctx.mask, None
        return _masked(gradient, mask, lambda mask: mask), None


class _Turned(PyLayer):
    """A convolution of stride 1 that computes the gradient of its input by a convolution with the kernels rotated by 180 degrees.

    Paddle's kernel multiplies first and then adds every product to its pixel, which takes longer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
        own = weight.detach()
        own.stop_gradient = weight.stop_gradient
        with paddle.enable_grad():
            out = F.conv2d(x.detach(), own, None, 1, padding)
        ctx.kept, ctx.padding = (own, out), padding
        found = out.detach()
        out._clear_dataptr()  # the graph keeps the tensors that it needs, and not this output
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        (own, out), size = ctx.kept, ctx.kept[0].shape[2]
        if not own.stop_gradient:
            paddle.autograd.backward([out], [gradient])
        # DIFFERS: flip and transpose are much slower than numpy's.
        turned = np.ascontiguousarray(own.numpy()[:, :, ::-1, ::-1].swapaxes(0, 1))
        ctx.kept = ()
        return F.conv2d(gradient, paddle.to_tensor(turned), None, 1, [size - 1 - pad for pad in ctx.padding]), own.grad


class _Dense(PyLayer):
    """A convolution as one product of matrices. The large matrix is computed again for the gradients, and not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, taps: Tensor) -> Tensor:
        ctx.kept = x.detach(), weight.detach(), taps
        out = paddle.matmul(x.flatten(1), _Dense._matrix(weight, taps), transpose_y=True)
        return out.reshape([len(x), len(taps), -1]).transpose([0, 2, 1]).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, weight, taps), ctx.kept = ctx.kept, ()
        rows = gradient.transpose([0, 2, 1]).flatten(1)
        products = paddle.matmul(rows, x.flatten(1), transpose_x=True).reshape([len(taps), -1, taps.shape[2]])
        own = paddle.matmul(products[0], taps[0], transpose_y=True)
        for product, tap in zip(products[1:], taps[1:], strict=True):
            own.add_(paddle.matmul(product, tap, transpose_y=True))
        return (rows @ _Dense._matrix(weight, taps)).reshape(x.shape), own.reshape(weight.shape), None

    @staticmethod
    def _matrix(weight: Tensor, taps: Tensor) -> Tensor:
        """The matrix [Q*K,C*H*W] that maps an image to its output."""
        filters, channels = weight.shape[:2]
        return (weight.reshape([filters * channels, -1]) @ taps).reshape([len(taps) * filters, -1])
