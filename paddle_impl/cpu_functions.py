"""Functions whose Paddle kernels are slow on CPU, in training (docs/performance.md). No output can be differentiated twice."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from parity.arrays import Array
from parity.network.windows import Pad

Area = tuple[slice, slice]
"""Rows and columns of pixels."""

_BLOCK = 1 << 16
"""So many elements are computed at once: they stay in the cache between two operations."""


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
    """A writable numpy array in the memory of `x`, which must be contiguous on the CPU, and which the array keeps alive."""
    shape, dtype = x.shape, _numpy_dtype(x.dtype)
    # DIFFERS: the method numpy() copies.
    memory = (ctypes.c_byte * (math.prod(shape) * dtype.itemsize)).from_address(x.data_ptr())
    memory.owner = x
    return np.ndarray(shape, dtype, memory)


@cache
def _numpy_dtype(dtype: paddle.dtype) -> np.dtype[Any]:
    return np.dtype(str(dtype).rpartition(".")[2])


@cache
def constants(value: float, channels: int, dtype: paddle.dtype) -> Tensor:
    """`channels` times `value`, in a tensor that is made once and that nobody may write to."""
    return paddle.full([channels], value, dtype)


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


def convolve_few_pixels(x: Tensor, weight: Tensor, stride: int, pads: tuple[Pad, Pad]) -> Tensor:
    """The convolution of `x` [N,C,H,W] with `weight` [K,C,k,k]. Each tap of the kernel is one product of matrices for all images.

    Paddle's product of one image at a time mostly reads weights if the image has few pixels. And many taps meet only padding there.
    """
    return _TapByTap.apply(x, weight, stride, pads)


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """`x` [N,C,H,W] + `bias` [C], for an `x` that trains."""
    return _Biased.apply(x, bias)


def scale_channels(x: Tensor, mean: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """(`x` - `mean`) * `factor` + `shift` for `x` [N,C] or [N,C,H,W] and tensors [C]."""
    # DIFFERS: batch norm in inference is much faster than operators that broadcast.
    return F.batch_norm(x, mean, constants(1.0, x.shape[1], x.dtype), factor, shift, False, 0.0, 0.0)


def sum_channels(*factors: Tensor) -> Array:
    """The sums [C] of one tensor, or of the product of two, in a contiguous shape [N,C] or [N,C,H,W]."""
    arrays = [array(factor).reshape(*factor.shape[:2], -1) for factor in factors]
    sums: Array = np.einsum(",".join(["ncl"] * len(arrays)) + "->c", *arrays)
    return sums


def _masked(x: Tensor, mask: Tensor, is_on: Callable[[Array], Array]) -> Tensor:
    """`x` where `is_on` of the array `mask`, in the shape of `x`, is true, else `x` * 0."""
    product = paddle.empty_like(x)
    values, marks, results = (array(tensor.contiguous()).reshape(-1) for tensor in (x, mask, product))
    for first in range(0, x.size, _BLOCK):
        block = slice(first, first + _BLOCK)
        # DIFFERS: the kernels that convert booleans, and numpy's products with booleans, are slow.
        np.multiply(values[block], is_on(marks[block]).astype(values.dtype), out=results[block])
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
        turned = paddle.empty([own.shape[1], own.shape[0], size, size], own.dtype)
        # DIFFERS: flip and transpose are much slower than numpy's.
        array(turned)[...] = array(own)[:, :, ::-1, ::-1].swapaxes(0, 1)
        ctx.kept = ()
        return F.conv2d(gradient, turned, None, 1, [size - 1 - pad for pad in ctx.padding]), own.grad


class _TapByTap(PyLayer):
    """A convolution that multiplies, for each tap of the kernel, the input pixels that meet it, and adds to their output pixels.

    Within, images are [H,W,N,C], and weights [k,k,K,C], so that the operands of every product lie together.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, pads: tuple[Pad, Pad]) -> Tensor:
        size, kernel = x.shape[2:], weight.shape[2]
        sizes = [(pixels + sum(pad) - kernel) // stride + 1 for pixels, pad in zip(size, pads, strict=True)]
        ctx.taps = list(_meetings(size, sizes, kernel, stride, pads))
        ctx.kept = [tensor.detach() for tensor in (x, weight)]
        ctx.needs = [not tensor.stop_gradient for tensor in (x, weight)]
        inputs, weights = _swap(x), _by_tap(_swap(weight))
        out = paddle.zeros([*sizes, x.shape[0], weight.shape[0]], x.dtype)
        pixels, sums = array(inputs), array(out)
        for tap, there, here in ctx.taps:
            _add(paddle.matmul(_rows(pixels[here], x), weights[tap], transpose_y=True), sums[there])
        return _swap(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (inputs, weights), ctx.kept = map(_swap, ctx.kept), ()
        gradients, of_inputs, of_weights = _swap(gradient), paddle.zeros_like(inputs), paddle.zeros_like(weights)
        slopes, pixels, input_sums, weight_sums = map(array, (gradients, inputs, of_inputs, of_weights))
        weights = _by_tap(weights)
        for tap, there, here in ctx.taps:
            rows = _rows(slopes[there], gradient)
            if ctx.needs[0]:
                _add(paddle.matmul(rows, weights[tap]), input_sums[here])
            if ctx.needs[1]:
                _add(paddle.matmul(rows, _rows(pixels[here], gradient), transpose_x=True), weight_sums[tap])
        return _swap(of_inputs) if ctx.needs[0] else None, _swap(of_weights) if ctx.needs[1] else None


def _meetings(
    size: Sequence[int], sizes: Sequence[int], kernel: int, stride: int, pads: tuple[Pad, Pad]
) -> Iterator[tuple[tuple[int, int], Area, Area]]:
    """For each tap of the kernel that meets inputs: tap, output pixels, input pixels. `size` is that of inputs, `sizes` of outputs."""
    rows, columns = (
        [
            (
                tap,
                slice(first, end),
                slice(first * stride - before + tap, (end - 1) * stride - before + tap + 1, stride),
            )
            for tap in range(kernel)
            if (first := max(0, -((tap - before) // stride)))
            < (end := min(out, (pixels - 1 + before - tap) // stride + 1))
        ]
        for pixels, out, (before, _) in zip(size, sizes, pads, strict=True)
    )
    for (i, *row), (j, *column) in product(rows, columns):
        yield (i, j), (row[0], column[0]), (row[1], column[1])


def _swap(x: Tensor) -> Tensor:
    """`x` [A,B,C,D] as [C,D,A,B]: pixels before images and channels, or after them."""
    x, swapped = x.contiguous(), paddle.empty([*x.shape[2:], *x.shape[:2]], x.dtype)
    # DIFFERS: transpose is slower than numpy's.
    array(swapped).reshape(-1, x.shape[0] * x.shape[1])[...] = array(x).reshape(x.shape[0] * x.shape[1], -1).T
    return swapped


def _by_tap(weights: Tensor) -> dict[tuple[int, int], Tensor]:
    """The matrices [K,C] of `weights` [k,k,K,C] by their tap."""
    sides = range(weights.shape[0])
    return dict(zip(product(sides, sides), weights.reshape([-1, *weights.shape[2:]]).unbind(0), strict=True))


def _rows(pixels: Array, like: Tensor) -> Tensor:
    """`pixels` [h,w,N,C] as rows of C channels, in a tensor of the dtype of `like`."""
    rows = paddle.empty([math.prod(pixels.shape[:-1]), pixels.shape[-1]], like.dtype)
    array(rows).reshape(pixels.shape)[...] = pixels
    return rows


def _add(rows: Tensor, pixels: Array) -> None:
    """Add `rows` to `pixels`, in place."""
    pixels += array(rows).reshape(pixels.shape)


class _Biased(PyLayer):
    """The sum with a bias for each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.needs = not bias.stop_gradient
        zeros, ones = (constants(value, x.shape[1], x.dtype) for value in (0.0, 1.0))
        return scale_channels(x, zeros, ones, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        return gradient, paddle.to_tensor(sum_channels(gradient.contiguous())) if ctx.needs else None
