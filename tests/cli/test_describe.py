"""`vgg-parity describe`: the costs of networks equal the papers' and those counted by hand; its contract; its picture."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.paths import ROOT
from helpers.refusals import contents, the_error
from helpers.scripts import script_main
from helpers.training_runs import execute
from parity.network import articles
from parity.network.costs import SUMMED, Cost, condensed, costs, kept, kernel_table, resized, totals
from parity.network.network import Network
from parity.network.nodes import (
    Add,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Multiply,
    ReLU,
    Sigmoid,
    SiLU,
)
from parity.report import plots

main = script_main("describe")


def by_name(network: Network | str, training: bool = False) -> dict[str, Cost]:
    found = costs(articles.get_network(network) if isinstance(network, str) else network, training)
    return {cost.layer: cost for cost in found}


# Counts

LETTERS = {
    "vgg_a": 132_863_336,
    "vgg_a_lrn": 132_863_336,
    "vgg_b": 133_047_848,
    "vgg_c": 133_638_952,
    "vgg_d": 138_357_544,
    "vgg_e": 143_667_240,
}


@pytest.mark.parametrize("name", LETTERS)
def test_the_parameters_of_the_layers_add_up_to_the_papers(name: str) -> None:
    assert totals(costs(articles.get_network(name)))["parameters"] == LETTERS[name]


def test_the_article_networks_statistics_are_counted_beside_its_parameters() -> None:
    total = totals(costs(articles.get_network("vgg16_bn_drop")))
    assert (total["parameters"], total["statistics"]) == (15_254_602, 9_472)


def test_the_multiply_adds_of_vgg16_are_those_counted_by_hand() -> None:
    found = by_name("vgg_d")
    sides, filters = (224, 112, 56, 28, 14), (3, 64, 128, 256, 512, 512)
    for block, side in enumerate(sides, start=1):
        first, rest = found[f"conv{block}_1"], found[f"conv{block}_2"]
        assert first.multiply_adds == side**2 * 9 * filters[block - 1] * filters[block]
        assert rest.multiply_adds == side**2 * 9 * filters[block] ** 2
    assert found["fc6"].multiply_adds == 512 * 7 * 7 * 4096
    assert found["relu1_1"].multiply_adds == found["pool1"].multiply_adds == 0
    assert totals(list(found.values()))["multiply_adds"] == 15_470_264_320


def test_activations_are_four_bytes_an_element_of_every_output() -> None:
    found = by_name("vgg_d")
    assert found["conv1_1"].activation_bytes == 4 * 224 * 224 * 64
    assert found["pool5"].activation_bytes == found["flatten"].activation_bytes == 4 * 25_088
    maps = [cost for cost in found.values() if cost.kind.startswith(("Conv", "MaxPool", "Linear"))]
    assert sum(cost.activation_bytes for cost in maps) // 4 == (
        2 * 3_211_264 + 802_816 + 2 * 1_605_632 + 401_408 + 3 * 802_816 + 200_704 + 3 * 401_408 + 100_352
        + 3 * 100_352 + 25_088 + 2 * 4096 + 1000
    )  # fmt: skip


@pytest.mark.parametrize("name", articles.NETWORKS)
def test_the_totals_are_the_networks_own(name: str) -> None:
    network = articles.get_network(name)
    found = costs(network)
    total = totals(found)
    assert total["parameters"] == network.trainable_count == sum(cost.parameters for cost in found)
    assert total["statistics"] == network.statistics_count
    assert total["multiply_adds"] == network.multiply_adds
    assert total["activation_bytes"] == 4 * sum(math.prod(shape) for shape in network.inference.shapes.values())
    assert total["layers"] == len(found) == len(network.inference.layers)


def test_auxiliary_heads_count_in_training_only() -> None:
    network = articles.get_network("googlenet")
    inference, training = costs(network), costs(network, training=True)
    assert totals(inference)["parameters"] == 6_998_552
    assert totals(training)["parameters"] == 6_998_552 + 3_188_840 + 3_190_888
    assert {cost.head for cost in inference} == {""}
    assert {cost.head for cost in training} == {"", "aux1", "aux2"}
    assert [cost for cost in training if not cost.head] == inference
    heads = sum(cost.multiply_adds for cost in training if cost.head)
    assert heads == sum(16 * channels * 128 + 2048 * 1024 + 1024 * 1000 for channels in (512, 528))


# What the backward pass reads


def test_training_keeps_every_tensor_that_a_gradient_is_computed_from_once() -> None:
    nodes = (Conv("conv", 2), BatchNorm("bn"), ReLU("relu"), Dropout("drop"), Flatten("flat"), Linear("fc", 3))
    network = Network("n", (1, 4, 4), nodes)
    assert kept(network) == {"", "conv", "relu", "drop", "fc"}
    assert {name: cost.kept_bytes for name, cost in by_name(network).items()} == {
        "conv": 128,  # the batch norm's input
        "bn": 0,  # the ReLU reads its own output
        "relu": 128,
        "drop": 128 + 32,  # the linear layer's input, flattened or not, and the mask
        "flat": 0,
        "fc": 12,  # the loss reads the scores
    }


def test_a_maximum_reads_its_input_and_an_average_reads_nothing() -> None:
    both = Branches("both", ((Conv("a", 2), AvgPool("mean")), (Conv("b", 2), MaxPool("most"))))
    network = Network("n", (1, 4, 4), (both, Flatten("flat"), Linear("fc", 2)))
    assert kept(network) == {"", "b", "both", "fc"}


def test_a_sum_reads_nothing_and_a_product_reads_its_factors() -> None:
    shortcut = Add("sum", ((), (Conv("a", 2),)))
    gated = Multiply("product", ((), (GlobalAvgPool("mean"), Linear("fc1", 2), Sigmoid("gate"))))
    nodes = (Conv("c", 2), shortcut, gated, SiLU("silu"), Flatten("flat"), Linear("fc2", 2))
    network = Network("n", (1, 4, 4), nodes)
    assert kept(network) == {"", "c", "sum", "mean", "gate", "product", "silu", "fc2"}


# Receptive fields and strides


@pytest.mark.parametrize(("number", "field"), [(1, 3), (2, 5), (3, 7)])
def test_stacked_3x3_convolutions_see_as_much_as_one_larger_kernel(number: int, field: int) -> None:
    stack = articles.get_network(f"INPUT -> [CONV -> RELU]*{number} -> FC")
    single = Network("one", (3, 32, 32), (Conv("conv", 8, field), Flatten("flat"), Linear("fc", 10)))
    last = by_name(stack)[f"relu{number}"]
    assert last.receptive_field == by_name(single)["conv"].receptive_field == field
    assert last.stride == 1


def test_receptive_fields_of_vgg16_and_alexnet_are_the_known_ones() -> None:
    found = by_name("vgg_d")
    layers = ("conv1_1", "conv1_2", "pool1", "conv2_2", "pool2", "conv3_3", "pool3", "conv4_3", "pool4", "conv5_3")
    assert [found[name].receptive_field for name in layers] == [3, 5, 6, 14, 16, 40, 44, 92, 100, 196]
    assert (found["pool5"].receptive_field, found["pool5"].stride) == (212, 32)
    assert found["fc6"].receptive_field == found["fc8"].receptive_field == 212 + 6 * 32  # as a convolution of 7x7
    assert totals(list(found.values()))["receptive_field"] == 212
    alexnet = by_name("alexnet")
    layers = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert [alexnet[name].receptive_field for name in layers] == [11, 19, 51, 67, 99, 131, 163, 195]
    assert [alexnet[name].stride for name in layers] == [4, 8, 8, 16, 16, 16, 16, 32]


def test_where_branches_join_the_largest_receptive_field_counts() -> None:
    found = by_name("googlenet", training=True)
    names = ("pool2", "inception_3a_1x1", "inception_3a_3x3", "inception_3a_5x5", "inception_3a_pool_proj")
    assert [found[name].receptive_field for name in names] == [27, 27, 43, 59, 43]
    blocks = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    fields = [found[f"inception_{block}"].receptive_field for block in blocks]
    assert fields == [59, 91, 171, 235, 299, 363, 427, 587, 715]
    assert (found["avgpool"].receptive_field, found["avgpool"].stride) == (907, 32)
    assert found["aux1_pool"].receptive_field == 171 + 4 * 16, "the head stands on 4a"
    assert found["inception_4b_1x1"].receptive_field == 171, "and hands nothing on"


def test_a_gate_sees_the_whole_map_and_a_residual_block_what_its_convolutions_see() -> None:
    residual = Add("sum", ((), (Conv("a", 2), Conv("b", 2))))
    gated = Multiply("product", ((), (GlobalAvgPool("mean"), Linear("fc1", 2))))
    network = Network("n", (2, 9, 9), (residual, gated, Flatten("flat"), Linear("fc2", 2)))
    found = by_name(network)
    assert (found["sum"].receptive_field, found["product"].receptive_field) == (5, 5 + 8)
    resnet = by_name("resnet20")
    fields = [resnet[f"block{group}_3_add"].receptive_field for group in (1, 2, 3)]
    assert fields == [15, 15 + 2 + 5 * 4, 37 + 4 + 5 * 8] and resnet["block3_1_add"].stride == 4
    assert resnet["block2_1_pad"].receptive_field == 15, "the shortcut sees no more"


def test_where_branches_of_different_strides_join_the_largest_stride_counts() -> None:
    wide, far = (Conv("wide", 2, 5, 1, 0),), (MaxPool("far", 3, 3),)
    for branches in ((wide, far), (far, wide)):
        network = Network("n", (1, 5, 5), (Branches("both", branches), Flatten("flat"), Linear("fc", 2)))
        both = by_name(network)["both"]
        assert (both.receptive_field, both.stride) == (5, 3)


def test_a_network_without_maps_sees_all_of_the_image_and_has_no_field_of_a_map() -> None:
    found = by_name("mnist_fc")
    assert found["fc1"].receptive_field == 28
    assert totals(list(found.values()))["receptive_field"] is None


# The fourth article's table


def test_the_articles_table_of_kernels_is_whole() -> None:
    rows = kernel_table()
    assert [row["kernel"] for row in rows] == [3, 5, 7, 9, 11]
    assert [row["output"] for row in rows] == [(96, side, side) for side in (56, 56, 55, 55, 54)]
    assert [row["weights"] for row in rows] == [2_592, 7_200, 14_112, 23_328, 34_848]
    assert [row["parameters"] - row["weights"] for row in rows] == [96] * 5
    assert [row["operations"] for row in rows] == [16_257_024, 45_158_400, 85_377_600, 141_134_400, 203_233_536]
    assert [2 * row["multiply_adds"] for row in rows] == [row["operations"] for row in rows]


# Images of another size


def test_on_larger_images_the_first_linear_layer_has_other_weights() -> None:
    network = articles.get_network("vgg_d")
    made, changes = resized(network, 448)
    assert (made.name, made.input_shape, made.shapes["pool5"]) == ("vgg_d", (3, 448, 448), (512, 14, 14))
    assert len(changes) == 1 and changes[0].startswith("fc6 takes 100,352 features instead of 25,088: ")
    convolutions = {name: node for name, node in network.parameters.items() if name.startswith("conv")}
    assert {name: made.parameters[name] for name in convolutions} == convolutions


def test_a_global_average_pool_still_covers_the_map_and_the_classifier_stays() -> None:
    network = articles.get_network("googlenet")
    made, changes = resized(network.inference, 448)
    assert made.trainable_count == network.trainable_count
    assert changes == ["avgpool is AvgPool 14x14/1 instead of AvgPool 7x7/1"]
    assert [change.partition(" ")[0] for change in resized(network, 448)[1]] == ["aux1_fc1", "aux2_fc1", "avgpool"]


def test_the_networks_own_size_changes_nothing() -> None:
    network = articles.get_network("googlenet")
    assert resized(network, 224) == (network, [])


# The command


def described(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_script_prints_json_on_the_last_line_of_stdout_and_the_table_on_stderr() -> None:
    done = execute([sys.executable, "scripts/describe.py", "--json"])
    assert done.code == 0, done.stderr
    (line,) = done.stdout.splitlines()
    (one,) = json.loads(line)["networks"]
    assert one["network"] == "vgg16_bn_drop"
    assert one["totals"]["parameters"] == 15_254_602
    assert "15,254,602" in done.stderr


def test_a_reader_that_has_seen_enough_ends_it_in_silence() -> None:
    command = [sys.executable, "scripts/describe.py", "--network", "googlenet"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("flags", [(), ("--training",)])
def test_totals_in_json_are_the_sums_of_the_layers(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    result = described(capsys, "--network", "googlenet,vgg_mini@0.25", *flags)
    assert [one["network"] for one in result["networks"]] == ["googlenet", "vgg_mini@0.25"]
    for one in result["networks"]:
        for field in SUMMED:
            assert one["totals"][field] == sum(layer[field] for layer in one["layers"])
    heads = 3_188_840 + 3_190_888 if flags else 0
    assert result["networks"][0]["totals"]["parameters"] == 6_998_552 + heads


def test_columns_are_aligned_and_the_total_stands_below(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", "cifar_net"]) == 0
    first, _, head, *rows, rule, total, note, end = capsys.readouterr().out.splitlines()
    assert (first.partition(",")[0], end) == ("cifar_net", "")
    assert "kept is what training stores" in note
    assert [row.split()[0] for row in rows] == list(articles.get_network("cifar_net").layers)
    assert len({len(row) for row in (head, rule, *rows)}) == 1
    column = head.index("parameters") + len("parameters")
    assert total[:column].split() == ["total", "62,006"]
    assert sum(int(row[:column].split()[-1].replace(",", "")) for row in rows) == 62_006


def test_several_networks_stand_side_by_side_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    pattern = "INPUT -> [CONV -> RELU]*2 -> FC"
    assert main(["--network", f"vgg_a, vgg_e,{pattern}"]) == 0
    rows = capsys.readouterr().out.splitlines()[-4:]
    assert rows[0].split()[:3] == ["network", "input", "layers"]
    assert rows[1].startswith("vgg_a ") and "132,863,336" in rows[1]
    assert rows[2].startswith("vgg_e ") and "143,667,240" in rows[2]
    assert rows[3].startswith(pattern)


def test_another_image_size_is_in_the_table_and_its_changes_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", "vgg_mini", "--input-size", "64"]) == 0
    text = capsys.readouterr().out
    assert "vgg_mini, 3x64x64" in text
    assert "Changed: avgpool is AvgPool 2x2/1 instead of AvgPool 1x1/1" in text
    (one,) = described(capsys, "--network", "vgg_mini", "--input-size", 64)["networks"]
    assert one["input_shape"] == [3, 64, 64] and len(one["changes"]) == 1
    assert one["totals"]["parameters"] == 9_231_114


def test_heads_are_told_apart_in_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", "googlenet", "--training"]) == 0
    assert "auxiliary heads (aux1, aux2) have 6,379,728 of these parameters" in capsys.readouterr().out
    assert main(["--network", "googlenet"]) == 0
    assert "aux" not in capsys.readouterr().out


def test_the_table_of_kernels_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kernels"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["3x3", "5x5", "7x7", "9x9", "11x11"]
    assert rows[2].split()[1:] == ["96x55x55", "14,112", "14,208", "42,688,800", "85,377,600"]
    assert described(capsys, "--kernels")["kernels"][2]["operations"] == 85_377_600


WRONG = {
    "unknown network 'vgg99'": ("--network", "vgg_d,vgg99"),
    "unknown network ''": ("--network", "vgg_d,"),
    "character 10": ("--network", "INPUT -> HELLO"),
    "is not at least 1": ("--input-size", "0"),
    "is not a whole number": ("--input-size", "big"),
    "alexnet cannot take images of 4 by 4": ("--network", "alexnet", "--input-size", "4"),
    "is not the name of a .png file": ("--plot", "costs.jpg"),
    "folder.png is not the name": ("--plot", "folder.png"),
    "leave out --network": ("--kernels", "--network", "vgg_d"),
    "leave out --input-size": ("--kernels", "--input-size", "32"),
    "leave out --training": ("--kernels", "--training"),
    "leave out --output": ("--kernels", "--plot", "a.png"),
    "at most 600 layers": ("--network", ",".join(["googlenet"] * 12), "--plot", "many.png"),
    "cannot write": ("--plot", "file/costs.png"),
    "cannot read none.json": ("--network", "none.json"),
}


@pytest.mark.parametrize("said", WRONG)
def test_bad_input_is_one_line_and_leaves_nothing(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    before = contents(tmp_path)
    try:
        code: object = main([*WRONG[said], "--json"])
    except SystemExit as ended:
        code = ended.code
    stdout, stderr = capsys.readouterr()
    assert (code, stdout) == (2, "")
    assert said in the_error(stderr.splitlines())
    assert contents(tmp_path) == before


# The picture


def test_a_picture_counts_layers_that_only_change_numbers_with_the_layer_before() -> None:
    found = costs(articles.get_network("vgg16_bn_drop"))
    rows = condensed(found)
    assert [row.layer for row in rows[:4]] == ["conv1_1", "conv1_2", "pool1", "conv2_1"]
    assert {row.kind.partition(" ")[0] for row in rows} == {"Conv", "MaxPool", "Linear"}
    assert {field: totals(rows)[field] for field in SUMMED} == {field: totals(found)[field] for field in SUMMED}
    assert rows[0].parameters == 3 * 9 * 64 + 64 + 2 * 64, "with its batch norm"


def test_a_picture_keeps_branches_and_heads_apart() -> None:
    branches = Branches("both", ((Conv("a", 2),), (ReLU("b"),)))
    found = costs(Network("n", (1, 4, 4), (Conv("stem", 2), branches, ReLU("relu"), Flatten("flat"), Linear("fc", 2))))
    rows = {row.layer: row for row in condensed(found)}
    assert list(rows) == ["stem", "a", "both", "fc"]
    assert rows["stem"].activation_bytes == 2 * 128, "of its own and of b, which follows it and not a"
    head = Auxiliary("aux", (ReLU("seen"), Flatten("map"), Linear("scores", 2)))
    network = Network("n", (1, 4, 4), (Conv("stem", 2), head, Flatten("flat"), Linear("fc", 2)))
    rows = {row.layer: row for row in condensed(costs(network, training=True))}
    assert list(rows) == ["stem", "seen", "scores", "fc"]
    assert [row for row in rows.values() if not row.head] == condensed(costs(network))


@pytest.mark.parametrize(("names", "rows"), [("vgg16_bn_drop", 21), ("vgg_a_cifar,cifar_net", 22)])
def test_the_picture_is_a_png_that_grows_with_the_layers(
    names: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "costs.png"
    result = described(capsys, "--network", names, "--plot", path)
    assert result["plot"] == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["costs.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        colours = len(picture.convert("RGB").getcolors(1 << 24) or ())
    assert width == 1650
    assert height == pytest.approx(110 * (0.5 + 1.1 * len(names.split(",")) + 0.19 * rows), abs=3)
    assert colours > 50, "bars and letters"


def test_the_picture_has_a_bar_for_every_layer_and_count() -> None:
    rows = costs(articles.get_network("vgg_mini"))
    draw = plots.layers.__wrapped__  # type: ignore[attr-defined]
    figure = draw([("vgg_mini", rows), ("half", costs(articles.get_network("vgg_mini@0.5")))])
    axes = figure.axes[: len(plots.PANELS)]
    assert [axis.get_xlabel() for axis in axes] == list(plots.PANELS)
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == [row.layer for row in rows]
    counts = [(max(r.output[1:], default=1), r.parameters, r.multiply_adds, r.activation_bytes) for r in rows]
    widths = [[bar.get_width() for bar in axis.patches] for axis in axes]
    assert list(zip(*widths, strict=True)) == counts
    assert {axis.get_xlim() for axis in axes[1::4]} == {axis.get_xlim() for axis in figure.axes[5::4]}, "one scale"
    assert [next(text.get_text() for text in axis.texts if text.get_text()) for axis in axes] == [
        "64x32x32",
        "1.8 k",
        "1.8 M",
        "262.1 k",
    ]


def test_the_pattern_is_told_where_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    said = "INPUT -> [CONV -> RELU -> POOL]*2 -> [FC -> RELU]*2 -> FC"
    assert main(["--network", "cifar_net,googlenet"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Pattern")]
    assert lines == [f"Pattern, without sizes: {said}"]
    assert [one["pattern"] for one in described(capsys, "--network", "cifar_net,googlenet")["networks"]] == [said, None]
