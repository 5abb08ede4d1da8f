"""Holds Paddle's layers of ours against Paddle's own kernels: `python -m helpers.cpu_functions_paddle CASE`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_impl import cpu_functions, shared_images
from paddle_impl.backend import Backend
from paddle_impl.layers import LAYERS, _padding
from parity.arrays import Array
from parity.backend.model_state import build
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, Flatten, Linear, MaxPool, Node, ReLU
from parity.threads import THREADS

RANDOM = np.random.default_rng(0)
DTYPES = ("float32", "float64")


def tensor(array: Array, dtype: str, gradient: bool = True) -> Tensor:
    made = paddle.to_tensor(array.astype(dtype))
    made.stop_gradient = not gradient
    return made


def layer(node: Node, shape: Sequence[int], dtype: str) -> nn.Layer:
    return LAYERS[type(node)](node, tuple(shape)).to(dtype=dtype)


def gradients(out: Tensor, inputs: Sequence[Tensor], slopes: Array) -> list[Array]:
    """The gradients of `inputs` from those of `out`."""
    paddle.autograd.backward([out], [paddle.to_tensor(slopes.astype(out.numpy().dtype))])
    found = [one.grad.numpy() for one in inputs]
    for one in inputs:
        one.clear_gradient(set_to_zero=False)
    return found


def is_close(one: Array, other: Array, ulps: float) -> bool:
    """Whether the arrays differ by at most `ulps` units in the last place of their largest number."""
    return bool(abs(one - other).max() <= ulps * np.finfo(one.dtype).eps * abs(other).max())


def pools() -> Iterator[tuple[MaxPool, Array]]:
    """Pools with integers, so that many windows have ties, and with numbers that are not finite."""
    for size, stride, padding, ceil, pixels in (
        (2, 2, 0, False, 8), (2, 2, 0, True, 8), (2, 2, 0, True, 9), (3, 2, 1, False, 9), (3, 2, 1, True, 8),
        (3, 1, 1, False, 5), (3, 3, 0, True, 10), (2, 2, "same", False, 7), (3, 2, "same", False, 8),
    ):  # fmt: skip
        x = RANDOM.integers(0, 3, (4, 3, pixels, pixels)).astype(float)
        yield MaxPool("pool", size, stride, padding, ceil), x
        for special in (np.nan, -np.inf, np.inf):
            for place in (slice(0, size + 1), slice(0, 1), slice(1, 2)):  # a whole window, its first and last pixel
                changed = x.copy()
                changed[1, 1, place, place] = special
                yield MaxPool("pool", size, stride, padding, ceil), changed


def max_pool() -> None:
    chosen, real = [0], cpu_functions.max_pool2d

    def count(*arguments: Tensor) -> Tensor:
        chosen[0] += 1
        return real(*arguments)

    cpu_functions.max_pool2d = count
    for node, images in pools():
        for dtype in DTYPES:
            x, own = tensor(images, dtype), tensor(images, dtype)
            out = layer(node, images.shape[1:], dtype)(x)
            pads = _padding(node.pads(images.shape[1:]))
            wanted = F.max_pool2d(own, node.size, node.stride, pads, ceil_mode=node.ceil)
            slopes = RANDOM.integers(-9, 9, wanted.shape).astype(float)
            np.testing.assert_array_equal(out.numpy(), wanted.numpy())
            np.testing.assert_array_equal(gradients(out, [x], slopes)[0], gradients(wanted, [own], slopes)[0])
    assert chosen[0] > 20


def masks() -> None:
    special = np.array([np.nan, 0.0, -0.0, 1e-45, -1e-45, 1.0, np.inf, -np.inf])
    values = np.concatenate([special, RANDOM.normal(size=3 * 100 * 700 - 8)]).reshape(3, 100, 7, 100)
    on = RANDOM.random(values.shape) < 0.6
    slopes = RANDOM.normal(size=values.shape)
    for dtype in DTYPES:
        x, own = tensor(values, dtype), tensor(values, dtype)
        pairs = [(cpu_functions.relu(x), F.relu(own))]
        mask = paddle.to_tensor(on)
        pairs.append((cpu_functions.multiply_by_mask(x, mask), own * mask.astype(dtype)))
        turned = paddle.to_tensor(on.transpose(0, 1, 3, 2).copy()).transpose([0, 1, 3, 2])
        pairs.append((cpu_functions.multiply_by_mask(x, turned), own * mask.astype(dtype)))
        for out, wanted in pairs:
            np.testing.assert_array_equal(out.numpy(), wanted.numpy())
            np.testing.assert_array_equal(gradients(out, [x], slopes)[0], gradients(wanted, [own], slopes)[0])


def few_pixels() -> None:
    taken, real = [0], cpu_functions.convolve_few_pixels

    def count(*arguments: Tensor) -> Tensor:
        taken[0] += 1
        return real(*arguments)

    cpu_functions.convolve_few_pixels = count
    for kernel, stride, padding, size in (
        (3, 1, 1, (2, 2)), (3, 1, 1, (4, 3)), (3, 2, 1, (5, 6)), (5, 1, 2, (2, 3)), (2, 2, 0, (6, 7)), (1, 1, 0, (3, 3)),
        (3, 2, "same", (4, 4)), (2, 1, "same", (5, 5)), (7, 3, 3, (2, 2)), (4, 3, 2, (1, 9)),
    ):  # fmt: skip
        for dtype in DTYPES:
            node = Conv("conv", 6, kernel, stride=stride, padding=padding)
            ours = layer(node, (5, *size), dtype)
            ours.bias.set_value(tensor(RANDOM.normal(size=6), dtype))
            images = RANDOM.normal(size=(9, 5, *size))
            x, own = tensor(images, dtype), tensor(images, dtype)
            out = ours(x)
            wanted = F.conv2d(own, ours.weight, ours.bias, stride, _padding(node.pads((5, *size))))
            slopes = RANDOM.normal(size=wanted.shape)
            assert is_close(out.numpy(), wanted.numpy(), 32)
            found = gradients(out, [x, ours.weight, ours.bias], slopes)
            for one, other in zip(found, gradients(wanted, [own, ours.weight, ours.bias], slopes), strict=True):
                assert is_close(one, other, 64), (node, size, dtype)
            ours.weight.stop_gradient = True
            assert is_close(gradients(ours(x), [x], slopes)[0], found[0], 64)
            assert ours(tensor(images, dtype, False)).stop_gradient is False  # for its bias
    assert taken[0] == 60


def in_threads(layers: Sequence[nn.Layer], x: Tensor, threads: int) -> Tensor:
    THREADS.use(threads)
    return shared_images.compute_in_threads([(one, None) for one in layers], x, THREADS.sizes(x.shape[0]))


def batch_norm() -> None:
    for shape in ((17, 5, 6, 7), (2, 3, 4, 4), (17, 5), (4, 5), (64, 64, 16, 16)):  # a thread may have one value
        for far in (0, 1e3):  # the mean, in standard deviations
            for frozen in (False, True):
                for threads in (2, 3) if shape[0] > 2 else (2,):
                    _batch_norm(shape, far, frozen, threads)


def _batch_norm(shape: tuple[int, ...], far: float, frozen: bool, threads: int) -> None:
    node = BatchNorm("norm", decay=0.75, variance="unbiased" if frozen else "biased", frozen=frozen)
    images, slopes = RANDOM.normal(size=shape) + far, RANDOM.normal(size=shape)
    found = []
    for compute in (lambda one, x: one(x)), (lambda one, x: in_threads([one], x, threads)):
        own = layer(node, shape[1:], "float64")
        values = np.linspace(0.5, 1.5, shape[1])
        own.bias.set_value(tensor(values - 1, "float64"))
        if frozen:
            own.weight.stop_gradient = True
        else:
            own.weight.set_value(tensor(values, "float64"))
        x = tensor(images, "float64")
        out = compute(own, x)
        weights = [own.bias] if frozen else [own.weight, own.bias]
        tensors = [out.numpy(), own._mean.numpy(), own._variance.numpy(), *gradients(out, [x, *weights], slopes)]
        own.weight.clear_gradient()
        with paddle.no_grad():
            tensors.append(compute(own, x).numpy())
        found.append([*tensors, own._mean.numpy(), own._variance.numpy()])
    for i, (kernels, ours) in enumerate(zip(*found, strict=True)):
        assert is_close(ours, kernels, 32 * max(1, far)), (shape, far, frozen, threads, i, abs(ours - kernels).max())


class Failing(nn.Layer):
    """Raises an error for images that begin with 9."""

    def forward(self, x: Tensor) -> Tensor:
        if x.flatten()[0].item() == 9:
            raise ZeroDivisionError("the images begin with 9")
        return x


def error_in_a_part() -> None:
    node = BatchNorm("norm")
    norm, images = layer(node, (3, 4, 4), "float32"), RANDOM.normal(size=(8, 3, 4, 4))
    for first in (0, 4):  # in either part, the other waits at the batch norm
        planted = images.copy()
        planted[first, 0, 0, 0] = 9
        try:
            in_threads([Failing(), norm], tensor(planted, "float32"), 2)
        except ZeroDivisionError:
            pass
        else:
            raise AssertionError("no error")
        assert np.isfinite(in_threads([Failing(), norm], tensor(images, "float32"), 2).numpy()).all()


def two_passes() -> None:
    """Two forward passes before their backward passes, in either order, and one that is computed again."""
    conv, norm = layer(Conv("conv", 4, 3), (3, 9, 9), "float64"), layer(BatchNorm("norm"), (4, 9, 9), "float64")
    images = [tensor(RANDOM.normal(size=(7, 3, 9, 9)), "float64") for _ in range(2)]
    slopes = RANDOM.normal(size=(7, 4, 9, 9))
    weights = [conv.weight, conv.bias, norm.weight, norm.bias]

    def alone(x: Tensor) -> list[Array]:
        return gradients(in_threads([conv, norm], x, 2), [x, *weights], slopes)

    wanted = [alone(x) for x in images]
    outs = [in_threads([conv, norm], x, 2) for x in images]
    for i in (0, 1), (1, 0):
        outs = [in_threads([conv, norm], x, 2) for x in images]
        for k in i:
            found = gradients(outs[k], [images[k], *weights], slopes)
            assert all(one.tobytes() == other.tobytes() for one, other in zip(found, wanted[k], strict=True))
    again = paddle.distributed.fleet.utils.recompute(lambda x: in_threads([conv, norm], x, 2), images[0])
    found = gradients(again, [images[0], *weights], slopes)
    assert all(one.tobytes() == other.tobytes() for one, other in zip(found, wanted[0], strict=True))


def enough_values() -> None:
    """Images are split among as many threads as have enough values; inference needs fewer than training."""
    network = Network("one", (3, 32, 32), (Conv("conv", 16, 3), ReLU("relu"), Flatten("flat"), Linear("fc", 2)))
    model = build(Backend(), network, 0, "float32")
    splittable, rest = shared_images.split_nodes(model, network.nodes, None)
    assert [node.name for node in splittable] == ["conv", "relu"]
    for threads, images, training, inference in (
        (1, 64, [], []),
        (2, 4, [], []),
        (2, 10, [], [5, 5]),  # 16 * 32 * 32 values of an image, in both layers
        (2, 19, [10, 9], [10, 9]),
        (4, 19, [10, 9], [5, 5, 5, 4]),
        (4, 64, [16, 16, 16, 16], [16, 16, 16, 16]),
    ):
        THREADS.use(threads)
        x = paddle.zeros([images, 3, 32, 32])
        assert shared_images.part_sizes(model, splittable, x, None) == training
        with paddle.no_grad():
            assert shared_images.part_sizes(model, splittable, x, None) == inference
        assert shared_images.part_sizes(model, rest, x, None) == []


CASES: dict[str, Callable[[], None]] = {
    case.__name__: case
    for case in (max_pool, masks, few_pixels, batch_norm, error_in_a_part, two_passes, enough_values)
}

if __name__ == "__main__":
    CASES[sys.argv[1]]()
