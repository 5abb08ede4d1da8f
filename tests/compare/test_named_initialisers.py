"""Initialisers of both frameworks are named, whatever the shape; and equal ones of a framework never differ.

PyTorch is imported before Paddle, as Paddle 2.6 needs it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
import torch
from torch.nn import init

from helpers.init_models_paddle import truncated_normal
from parity.compare.fresh_weights import Draws, compare_draws
from parity.compare.named_initialisers import Place, fan_of, name_initialiser
from parity.compare.tolerances import FRESH_SEEDS
from parity.pairs.fresh_arrays import sample_arrays

P = paddle.nn.initializer

MATRICES = ((48, 64), (10, 512), (1000, 24))
SHAPES = (*MATRICES, (32, 16, 3, 3), (24, 1, 3, 3), (16, 8, 5))
ROOT5 = math.sqrt(5)


def draws(make: Callable[[], Any], first_seed: int = 0, seeds: int = FRESH_SEEDS) -> Draws:
    """What `seeds` seeds give."""
    found = []
    for seed in range(first_seed, first_seed + seeds):
        torch.manual_seed(seed)
        paddle.seed(seed)
        array = make().detach().numpy()
        found.append(sample_arrays(lambda _, array=array: array, {"x": str(array.dtype)}, ["x"], len(found) < 2)["x"])
    count = max(len(one.values) for one in found)
    values = np.stack([np.broadcast_to(one.values, (count,)) for one in found])
    return Draws(values, array.shape, found[0].dtype, tuple(found[0].rows), found[0].gain)


def of_torch(act: Callable[[torch.Tensor], Any], shape: tuple[int, ...]) -> Callable[[], Any]:
    def make() -> Any:
        tensor = torch.empty(shape)
        act(tensor)
        return tensor

    return make


def of_paddle(initialiser: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    return lambda: paddle.create_parameter(list(shape), "float32", default_initializer=initialiser)


TORCH = {
    "kaiming_uniform(a=sqrt 5)": lambda x: init.kaiming_uniform_(x, a=ROOT5),
    "kaiming_uniform": lambda x: init.kaiming_uniform_(x, nonlinearity="relu"),
    "kaiming_uniform(fan_out)": lambda x: init.kaiming_uniform_(x, nonlinearity="relu", mode="fan_out"),
    "kaiming_uniform(linear)": lambda x: init.kaiming_uniform_(x, nonlinearity="linear"),
    "xavier_uniform": init.xavier_uniform_,
    "xavier_uniform(gain=sqrt 2)": lambda x: init.xavier_uniform_(x, math.sqrt(2)),
    "xavier_uniform(gain=5/3)": lambda x: init.xavier_uniform_(x, init.calculate_gain("tanh")),
    "kaiming_normal": lambda x: init.kaiming_normal_(x, nonlinearity="relu"),
    "kaiming_normal(fan_out)": lambda x: init.kaiming_normal_(x, nonlinearity="relu", mode="fan_out"),
    "kaiming_normal(linear)": lambda x: init.kaiming_normal_(x, nonlinearity="linear"),
    "xavier_normal": init.xavier_normal_,
    "normal(std=0.02)": lambda x: init.normal_(x, std=0.02),
    "normal(std=1)": init.normal_,
    "normal(mean=1, std=0.02)": lambda x: init.normal_(x, 1.0, 0.02),
    "trunc_normal(std=0.02, ±2 std)": lambda x: init.trunc_normal_(x, std=0.02, a=-0.04, b=0.04),
    "trunc_normal(std=1, ±2 std)": init.trunc_normal_,
    "uniform(0, 1)": init.uniform_,
    "uniform(±0.05)": lambda x: init.uniform_(x, -0.05, 0.05),
    "0": init.zeros_,
    "1": init.ones_,
    "0.1": lambda x: init.constant_(x, 0.1),
}
PADDLE = {
    "kaiming_uniform(a=sqrt 5)": P.KaimingUniform(negative_slope=ROOT5, nonlinearity="leaky_relu"),
    "kaiming_uniform": P.KaimingUniform(),
    "xavier_uniform": P.XavierUniform(),
    "kaiming_normal": P.KaimingNormal(),
    "xavier_normal": P.XavierNormal(),
    "normal(std=0.02)": P.Normal(0.0, 0.02),
    "normal(std=1)": P.Normal(),
    "trunc_normal(std=0.02, ±2 std)": truncated_normal(0.02),
    "uniform(±0.05)": P.Uniform(-0.05, 0.05),
    "0": P.Constant(0.0),
    "0.1": P.Constant(0.1),
}


def said(name: str, fan: Any) -> set[str]:
    """The names of the same numbers: formulas may agree for the fan of one shape."""
    scales = {
        "kaiming_uniform(a=sqrt 5)": fan.inputs**-0.5,
        "kaiming_uniform": math.sqrt(6 / fan.inputs),
        "kaiming_uniform(fan_out)": math.sqrt(6 / fan.outputs),
        "kaiming_uniform(linear)": math.sqrt(3 / fan.inputs),
        "xavier_uniform": math.sqrt(6 / sum(fan)),
        "xavier_uniform(gain=sqrt 2)": math.sqrt(12 / sum(fan)),
        "xavier_uniform(gain=5/3)": 5 / 3 * math.sqrt(6 / sum(fan)),
        "uniform(±1/sqrt(fan_out))": fan.outputs**-0.5,
        "uniform(±0.05)": 0.05,
    }
    normal = {
        "kaiming_normal": math.sqrt(2 / fan.inputs),
        "kaiming_normal(fan_out)": math.sqrt(2 / fan.outputs),
        "kaiming_normal(linear)": fan.inputs**-0.5,
        "xavier_normal": math.sqrt(2 / sum(fan)),
        "normal(std=1/sqrt(fan_out))": fan.outputs**-0.5,
        "kaiming_normal(a=sqrt 5)": math.sqrt(1 / 3 / fan.inputs),
    }
    for table, near in ((scales, 0.01), (normal, 0.05)):
        if name in table:
            return {other for other, scale in table.items() if abs(scale / table[name] - 1) < near}
    return {name}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TORCH)
def test_an_initialiser_of_pytorch_is_named(name: str, shape: tuple[int, ...]) -> None:
    fan = fan_of("torch", shape)
    found = name_initialiser(draws(of_torch(TORCH[name], shape)), Place(fan)).name
    assert found.partition(" or ")[0] in said(name, fan)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PADDLE)
def test_an_initialiser_of_paddle_is_named(name: str, shape: tuple[int, ...]) -> None:
    fan = fan_of("paddle", shape)
    found = name_initialiser(draws(of_paddle(PADDLE[name], shape)), Place(fan)).name
    assert found.partition(" or ")[0] in said(name, fan)


@pytest.mark.parametrize("shape", MATRICES)
def test_matrices_with_structure_are_named(shape: tuple[int, ...]) -> None:
    place = Place(fan_of("torch", shape))
    cases = {
        "orthogonal": init.orthogonal_,
        "orthogonal(gain=1.414)": lambda x: init.orthogonal_(x, math.sqrt(2)),
        "fixed numbers": init.eye_,
        "sparse(10% zeros), else normal(std=0.01)": lambda x: init.sparse_(x, 0.1),
    }
    found = {name: name_initialiser(draws(of_torch(act, shape)), place).name for name, act in cases.items()}
    assert {name: text for name, text in found.items() if name != "sparse(10% zeros), else normal(std=0.01)"} == {
        name: name for name in cases if not name.startswith("sparse")
    }
    assert found["sparse(10% zeros), else normal(std=0.01)"].startswith("sparse(1")
    assert name_initialiser(draws(of_paddle(P.Orthogonal(), shape)), place).name == "orthogonal"


def test_a_bias_and_recurrent_weights_are_named_by_what_belongs_to_them() -> None:
    layer = functools.partial(torch.nn.Linear, 48, 10)
    place = Place(weight=fan_of("torch", (10, 48)))
    assert name_initialiser(draws(lambda: layer().bias), place).name == "uniform(±1/sqrt(fan_in))"
    for side, make in (("torch", torch.nn.LSTM), ("paddle", paddle.nn.LSTM)):
        found = draws(lambda make=make: make(8, 24).weight_ih_l0)
        assert name_initialiser(found, Place(fan_of(side, (96, 8)), hidden=24)).name == "uniform(±1/sqrt(hidden_size))"


def test_the_embedding_of_each_framework() -> None:
    found = draws(lambda: torch.nn.Embedding(300, 16, padding_idx=3).weight)
    assert name_initialiser(found, Place(fan_of("torch", (300, 16)))).name == "normal(std=1), row 3 constant"
    found = draws(lambda: paddle.nn.Embedding(300, 16, padding_idx=3).weight)
    assert name_initialiser(found, Place(fan_of("paddle", (300, 16)))).name == "xavier_uniform, row 3 constant"


def test_a_grouped_convolution_of_paddle_has_the_fan_of_all_groups() -> None:
    found = draws(lambda: paddle.nn.Conv2D(16, 32, 3, groups=4).weight)
    assert found.shape == (32, 4, 3, 3)
    place = Place(fan_of("paddle", found.shape), groups=4)
    assert name_initialiser(found, place).name == "kaiming_normal(fan_in of all groups)"


def test_numbers_of_bfloat16_are_named() -> None:
    # Rounding takes the largest number farther than the bound, or not, on either side of zero.
    weights = draws(lambda: torch.nn.init.xavier_uniform_(torch.empty(16, 32)).bfloat16().float())
    found = Draws(weights.values, weights.shape, "bfloat16")
    assert name_initialiser(found, Place(fan_of("torch", (16, 32)))).name == "xavier_uniform"


def test_paddle_truncates_at_two_deviations_up_to_version_2() -> None:
    found = name_initialiser(
        draws(of_paddle(P.TruncatedNormal(0.0, 0.02), (64, 48))), Place(fan_of("paddle", (64, 48)))
    ).name
    assert found == ("trunc_normal(std=0.02, ±2 std)" if paddle.__version__.startswith("2.") else "normal(std=0.02)")


def test_what_no_family_explains_is_measured_only() -> None:
    mixture = of_torch(lambda x: init.normal_(x).mul_(torch.where(torch.rand(x.shape) < 0.5, 0.1, 1.0)), (64, 64))
    found = name_initialiser(draws(mixture), Place())
    assert (found.family, found.name[:16]) == ("other", "no known family ")
    signs = of_torch(lambda x: x.copy_(torch.where(torch.rand(x.shape) < 0.5, -0.1, 0.1)), (64, 64))
    assert name_initialiser(draws(signs), Place()).name == "random among -0.1, 0.1"


SMALL = {
    "torch": {
        "Linear(16, 10).weight": lambda: torch.nn.Linear(16, 10).weight,
        "Linear(16, 10).bias": lambda: torch.nn.Linear(16, 10).bias,
        "Conv2d(3, 4, 3).weight": lambda: torch.nn.Conv2d(3, 4, 3).weight,
        "orthogonal": of_torch(init.orthogonal_, (4, 4)),
        "truncated": of_torch(init.trunc_normal_, (20,)),
    },
    "paddle": {
        "Linear(16, 10).weight": lambda: paddle.nn.Linear(16, 10).weight,
        "Conv2D(3, 4, 3).weight": lambda: paddle.nn.Conv2D(3, 4, 3).weight,
        "Embedding(20, 4).weight": lambda: paddle.nn.Embedding(20, 4, padding_idx=0).weight,
        "orthogonal": of_paddle(P.Orthogonal(), (4, 4)),
        "truncated": of_paddle(truncated_normal(1.0), (20,)),
    },
}


@pytest.mark.parametrize("count", [4, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("framework", SMALL)
def test_equal_initialisations_of_small_layers_never_differ(framework: str, count: int) -> None:
    # 40 comparisons of each of five layers: 200, of which 0.02 are expected to be false alarms. Each takes 64 seeds of its own.
    for name, make in SMALL[framework].items():
        for number in range(count):
            first = 2 * FRESH_SEEDS * number
            one, two = draws(make, first), draws(make, first + FRESH_SEEDS)
            assert compare_draws(name, one, two, 1).equal, (name, number)


def test_one_draw_of_both_frameworks_is_one_initialiser() -> None:
    for name in PADDLE.keys() & TORCH.keys():
        one, two = draws(of_torch(TORCH[name], (64, 64))), draws(of_paddle(PADDLE[name], (64, 64)))
        assert compare_draws(name, one, two, 100).equal, name
