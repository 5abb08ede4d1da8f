"""`img_conv_group` takes PaddlePaddle v2's arguments and does what v2 did (v0.11, trainer_config_helpers/networks.py)."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.sample_networks import kinds
from parity.errors import InputError
from parity.network.initialisers import FAN_IN_UNIFORM
from parity.network.network import Network, img_conv_group
from parity.network.nodes import MSRA, ZEROS, AvgPool, BatchNorm, Conv, Dropout, Flatten, MaxPool


def test_with_batch_norm_the_activation_follows_the_batch_norm_not_the_conv() -> None:
    nodes = img_conv_group(
        (), [8, 8], 2, conv_act="relu", conv_with_batchnorm=True, conv_batchnorm_drop_rate=0.3, pool_stride=2
    )
    assert kinds(nodes) == ["Conv", "BatchNorm", "ReLU", "Dropout"] * 2 + ["MaxPool"]


def test_without_batch_norm_the_activation_follows_the_conv_and_dropout_is_left_out() -> None:
    nodes = img_conv_group((), [8, 8], 2, conv_act="relu", conv_batchnorm_drop_rate=0.3)
    assert kinds(nodes) == ["Conv", "ReLU", "Conv", "ReLU", "MaxPool"]


def test_lists_set_batch_norm_and_dropout_for_each_conv() -> None:
    nodes = img_conv_group(
        (),
        (4, 6, 8),
        2,
        conv_act="relu",
        conv_with_batchnorm=[True, False, True],
        conv_batchnorm_drop_rate=[0.5, 0.5, 0],
    )
    names = "conv1_1 bn1_1 relu1_1 drop1_1 conv1_2 relu1_2 conv1_3 bn1_3 relu1_3 pool1"
    assert [node.name for node in nodes] == names.split()
    assert [node.filters for node in nodes if isinstance(node, Conv)] == [4, 6, 8]


@pytest.mark.parametrize("argument,field,value", [("conv_padding", "padding", 2), ("conv_filter_size", "kernel", 5)])
def test_a_scalar_padding_or_filter_size_holds_for_every_conv(argument: str, field: str, value: int) -> None:
    convs = [node for node in img_conv_group((), [4, 4, 4], 2, **{argument: value}) if isinstance(node, Conv)]
    assert [getattr(conv, field) for conv in convs] == [value] * 3


@pytest.mark.parametrize(
    "argument,field,values", [("conv_padding", "padding", [0, 1, 2]), ("conv_filter_size", "kernel", [1, 3, 5])]
)
def test_a_list_of_paddings_or_filter_sizes_has_one_for_each_conv(argument: str, field: str, values: list[int]) -> None:
    convs = [node for node in img_conv_group((), [4, 4, 4], 2, **{argument: values}) if isinstance(node, Conv)]
    assert [getattr(conv, field) for conv in convs] == values


def test_a_list_of_activations_has_one_for_each_conv() -> None:
    nodes = img_conv_group((), [4, 4], 2, conv_act=["relu", "linear"])
    assert kinds(nodes) == ["Conv", "ReLU", "Conv", "MaxPool"]


def test_the_defaults_are_those_of_v2() -> None:
    # its decorators replace None by ReluActivation() for conv_act and MaxPooling() for pool_type
    nodes = img_conv_group((), [8], 2)
    conv, pool = nodes[0], nodes[-1]
    assert isinstance(conv, Conv)
    assert (conv.kernel, conv.padding, conv.stride, conv.groups, conv.bias) == (3, 1, 1, 1, True)
    assert (conv.init, conv.bias_init) == (MSRA, ZEROS)
    assert pool == MaxPool("pool1", size=2, stride=1, ceil=True)
    assert kinds(nodes) == ["Conv", "ReLU", "MaxPool"]


def test_batch_norms_and_dropouts_are_those_of_v2() -> None:
    nodes = img_conv_group((), [8], 2, conv_with_batchnorm=True, conv_batchnorm_drop_rate=0.3)
    assert BatchNorm("bn1_1", decay=0.9, eps=1e-5, variance="biased", start_variance=0.0) in nodes
    assert Dropout("drop1_1", 0.3, "downscale_in_infer") in nodes


def test_a_template_and_a_dropout_kind_replace_those_of_v2() -> None:
    nodes = img_conv_group(
        (),
        [8],
        2,
        conv_with_batchnorm=True,
        conv_batchnorm_drop_rate=0.3,
        param_attr=FAN_IN_UNIFORM,
        batch_norm=BatchNorm("any", decay=0.5, eps=0.1),
        dropout_kind="upscale_in_train",
    )
    assert BatchNorm("bn1_1", decay=0.5, eps=0.1) in nodes
    assert Dropout("drop1_1", 0.3, "upscale_in_train") in nodes
    assert isinstance(nodes[0], Conv)
    assert nodes[0].init == FAN_IN_UNIFORM


@pytest.mark.parametrize("pool_type,kind", [("max", MaxPool), ("avg", AvgPool)])
def test_pooling_rounds_up(pool_type: str, kind: type) -> None:
    nodes = img_conv_group((), [8], 2, pool_stride=2, pool_type=pool_type)
    network = Network("odd", (3, 5, 7), (*nodes, Flatten("flat")))
    assert type(nodes[-1]) is kind
    assert network.shapes["pool1"] == (8, 3, 4)


def test_groups_are_numbered_by_earlier_pools_and_earlier_nodes_stay() -> None:
    first = img_conv_group((), [4], 2, pool_type="avg")
    both = img_conv_group(first, [4, 4], 2)
    assert both[: len(first)] == first
    names = [node.name for node in both if isinstance(node, Conv | MaxPool)]
    assert names == ["conv1_1", "pool1", "conv2_1", "conv2_2", "pool2"]


@pytest.mark.parametrize("rate", [0, 0.0, 9e-6, [0.0]])
def test_a_drop_rate_below_1e_5_means_no_dropout_as_in_v2(rate: Any) -> None:
    nodes = img_conv_group((), [8], 2, conv_with_batchnorm=True, conv_batchnorm_drop_rate=rate)
    assert "Dropout" not in kinds(nodes)


@pytest.mark.parametrize(
    "arguments,culprit",
    [
        ({"conv_with_batchnorm": [True]}, "1 values for 2"),
        ({"conv_with_batchnorm": [True, False, True]}, "3 values for 2"),
        ({"conv_with_batchnorm": True, "conv_batchnorm_drop_rate": [0.3, 0.4, 0.5]}, "3 values for 2"),
        ({"conv_with_batchnorm": True, "conv_batchnorm_drop_rate": ()}, "0 values for 2"),
        ({"conv_with_batchnorm": True, "conv_batchnorm_drop_rate": 1.0}, "drop1_1"),
        ({"conv_act": "tanh"}, "tanh"),
        ({"pool_type": "sum"}, "sum"),
        ({"conv_with_batchnorm": True, "conv_batchnorm_drop_rate": 0.5, "dropout_kind": "up"}, "'up'"),
    ],
)
def test_a_wrong_argument_of_img_conv_group_is_an_input_error(arguments: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InputError) as caught:
        img_conv_group((), [8, 8], 2, **arguments)
    assert culprit in str(caught.value)
