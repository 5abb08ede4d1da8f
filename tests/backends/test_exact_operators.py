"""The formulas that replace Paddle's kernels in float64 compute what the kernels do, at scalars that float32 holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

assert torch  # before Paddle
import paddle  # noqa: E402

from paddle_impl.exact_functions import FORMULAS, KERNELS  # noqa: E402
from parity.arrays import Array  # noqa: E402
from parity.modules.interpolation import axis_weights  # noqa: E402

KINKS = np.array([-3, -1, -0.75, -0.25, -0.1, 0, 0.1, 0.25, 0.5, 0.75, 1, 3])
MATRICES = np.random.default_rng(0).normal(size=(4, 4))

# DIFFERS: since Paddle 3, the operator needs the value below the threshold. Without it, it reads behind the end of its arguments.
BELOW = (0.0,) if int(paddle.__version__.partition(".")[0]) >= 3 else ()

CASES: dict[str, tuple[Any, ...]] = {
    "elu": (KINKS, 0.25),
    "celu": (KINKS, 0.25),
    "selu": (KINKS, 1.5, 0.25),
    "leaky_relu": (KINKS, 0.25),
    "hardtanh": (KINKS, -0.25, 0.75),
    "hardsigmoid": (KINKS, 0.25, 0.5),
    "thresholded_relu": (KINKS, 0.25, *BELOW),
    "softshrink": (KINKS, 0.25),
    "softplus": (KINKS, 0.5, 2.0),
    "rrelu": (KINKS, 0.25, 0.75, True),
    "label_smooth": (MATRICES, None, 0.25),
    "stanh": (KINKS, 0.5, 1.5),
    "logit": (np.array([0.1, 0.25, 0.5, 0.8]), 0.125),
    "scale": (KINKS, 0.5, 0.25, False),
    "pow": (np.abs(MATRICES), 2.5),
    "addmm": (MATRICES, MATRICES + 1, MATRICES + 2, 0.5, 0.25),
    "huber_loss": (KINKS, np.zeros(12), 0.25),
    "pad": (MATRICES, [0, 1, 2, 0], 0.25),
    "pad3d": (MATRICES.reshape(1, 2, 2, 2, 2), [1, 0, 2, 0, 0, 1], "constant", 0.25, "NCDHW"),
    "p_norm": (MATRICES, 3.0, 1, 1e-12, False, False),
    "frobenius_norm": (MATRICES, [], False, True),
    "dist": (MATRICES, MATRICES**2, 3.0),
}  # fmt: skip


def computed(function: Any, given: tuple[Any, ...]) -> list[Array]:
    """Return the result of an operator and the gradients of its arrays."""
    tensors = [paddle.to_tensor(one, stop_gradient=False) if isinstance(one, np.ndarray) else one for one in given]
    result = function(*tensors)
    result = result[0] if isinstance(result, tuple | list) else result
    weights = np.random.default_rng(1).normal(size=result.shape)
    (result * paddle.to_tensor(weights)).sum().backward()
    return [result.numpy(), *(one.grad.numpy() for one in tensors if isinstance(one, paddle.Tensor))]


def test_every_formula_has_a_case() -> None:
    others = {"baddbmm", "log_loss", "bce_loss", "cross_entropy_with_softmax"} | {
        name for name in KERNELS if name.endswith("_interp")
    }
    assert set(CASES) | others == set(FORMULAS) | set(KERNELS)


@pytest.mark.parametrize("name", CASES)
def test_a_formula_is_equal_to_the_kernel(name: str) -> None:
    given = CASES[name]
    found = computed((FORMULAS | KERNELS)[name], given)
    expected = computed(getattr(paddle._C_ops, name), given)
    tolerance = 1e-6 if name in KERNELS else 1e-15
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


def test_the_gradient_of_a_norm_of_zeros_is_zero() -> None:
    for p in (1.0, 2.0, 3.0):
        assert all((one == 0).all() for one in computed(KERNELS["p_norm"], (np.zeros((2, 3)), p, 1, 0.0, False, False)))


def test_the_log_loss_is_that_of_its_definition() -> None:
    x, label = np.array([0.1, 0.9]), np.array([1.0, 0.0])
    found = KERNELS["log_loss"](paddle.to_tensor(x), paddle.to_tensor(label), 1e-4)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), -np.log([0.1001, 0.1001]), rtol=1e-14)


def test_the_binary_cross_entropy_has_the_limits_and_digits_of_pytorch() -> None:
    p, labels = np.array([1e-15, 1e-14, 1e-9, 0.3, 1 - 2**-45]), np.array([0.0, 1.0, 0.0, 0.0, 0.25])
    x, y = paddle.to_tensor(p, stop_gradient=False), paddle.to_tensor(labels)
    loss = KERNELS["bce_loss"](x, y)
    assert loss is not None
    loss.sum().backward()
    like = torch.tensor(p, requires_grad=True)
    wanted = F.binary_cross_entropy(like, torch.tensor(labels), reduction="none")
    wanted.sum().backward()
    np.testing.assert_allclose(loss.numpy(), wanted.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(x.grad.numpy(), like.grad.numpy(), rtol=1e-14)


def test_the_gradient_of_soft_labels_counts_their_sum() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(3, 4)), rng.random((3, 4))
    labels /= labels.sum(1, keepdims=True)
    call = KERNELS["cross_entropy_with_softmax"]
    rest = (True, True, True, -100, 1)
    assert call(paddle.to_tensor(scores), paddle.to_tensor(labels), *rest) is None, "the kernel is exact for a sum of 1"
    labels *= 1 + 1e-7
    x = paddle.to_tensor(scores, stop_gradient=False)
    found = call(x, paddle.to_tensor(labels), *rest)
    assert found is not None
    found[1].sum().backward()
    exact = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(found[0].numpy(), exact, rtol=1e-14)
    np.testing.assert_allclose(found[1].numpy()[:, 0], -(labels * np.log(exact)).sum(1), rtol=1e-14)
    np.testing.assert_allclose(x.grad.numpy(), exact * labels.sum(1, keepdims=True) - labels, atol=1e-15)


@pytest.mark.parametrize("align_mode", [0, 1])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(9, 4), (1, 13), (6, 1)])
def test_weights_resize_as_the_kernel_does(
    mode: str, size: tuple[int, int], align_corners: bool, align_mode: int
) -> None:
    x = np.random.default_rng(0).normal(size=(6, 7))
    rows, columns = (
        axis_weights(mode, *sizes, 0.0, align_corners, align_mode) for sizes in zip(x.shape, size, strict=True)
    )
    image = paddle.to_tensor(x[None, None])
    expected = paddle.nn.functional.interpolate(image, size, None, mode, align_corners, align_mode)
    np.testing.assert_allclose(rows @ x @ columns.T, expected.numpy()[0, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_weights_have_the_precision_of_float64(mode: str, align_corners: bool) -> None:
    x = torch.rand(6, 7, dtype=torch.float64)
    rows, columns = (axis_weights(mode, *sizes, 0.0, align_corners, 0) for sizes in ((6, 9), (7, 4)))
    expected = F.interpolate(x[None, None], (9, 4), mode=mode, align_corners=align_corners)[0, 0]
    np.testing.assert_allclose(rows @ x.numpy() @ columns.T, expected.numpy(), rtol=1e-12, atol=1e-13)
