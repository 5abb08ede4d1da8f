"""Networks go to JSON and back unchanged, and JSON that does not fit is refused in one line."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sample_networks import BRANCHED, EVERY_KIND, NETWORKS, generated
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import KINDS, ZEROS, Conv, Init, Linear, Node, ReLU, edited, walk


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_network_goes_to_json_and_back(network: Network) -> None:
    text = network.to_json()
    back = Network.from_json(text)
    assert back == network
    assert hash(back) == hash(network)
    assert back.digest == network.digest
    assert back.to_json() == text
    assert [type(node) for node in back.nodes] == [type(node) for node in network.nodes]
    assert list(back.parameters.values()) == list(network.parameters.values())
    assert "\n" not in text
    assert list(json.loads(text)) == sorted(json.loads(text))


@settings(deadline=None, max_examples=100)
@given(generated())
def test_generated_networks_go_to_json_and_back(network: Network) -> None:
    back = Network.from_json(network.to_json())
    assert back == network
    assert hash(back) == hash(network)
    assert back.digest == network.digest
    assert back.shapes == network.shapes
    assert back.parameters == network.parameters
    assert back.zero_gradients == network.zero_gradients


ALLOWED = {
    ("norm", "decay"): {"decay": 0.5},
    ("peak", "stride"): {"stride": 1},
    ("peak", "padding"): {"padding": 1, "ceil": False},  # with rounding up, its last window would be in the padding
    ("mean", "padding"): {"padding": 0},
    ("stem", "padding"): {"padding": 2},
    ("stem", "groups"): {"groups": 3},
    ("bn", "decay"): {"decay": 0.5},
    ("block", "branches"): {"branches": BRANCHED.nodes[3].parts[:2]},
    ("aux", "nodes"): {"nodes": BRANCHED.nodes[4].parts[0][1:]},
    ("inner", "branches"): {"branches": ((Conv("left", 2),),)},
    ("sum", "branches"): {"branches": ((), (ReLU("other"),))},
    ("scale", "branches"): {"branches": ((), (ReLU("other"),))},
}
"""Other values for the fields of `EVERY_KIND` and `BRANCHED` that cannot be doubled."""


def changed_field(node: Node, field: str) -> Node:
    """`node` with one field changed to another valid value."""
    value = getattr(node, field)
    if (node.name, field) in ALLOWED:
        return dataclasses.replace(node, **ALLOWED[node.name, field])
    words = {
        "unbiased": "biased",
        "biased": "unbiased",
        "upscale_in_train": "downscale_in_infer",
        "downscale_in_infer": "upscale_in_train",
        "around": "after",
    }
    if isinstance(value, bool):
        return dataclasses.replace(node, **{field: not value})
    if isinstance(value, str):
        return dataclasses.replace(node, **{field: words.get(value, value + "x")})
    if isinstance(value, Init):
        return dataclasses.replace(node, **{field: dataclasses.replace(value, scale=value.scale + 1)})
    return dataclasses.replace(node, **{field: value * 2 + (0 if value else 1)})


def fields_of_every_kind() -> list[tuple[int, str]]:
    return [(i, field.name) for i, node in enumerate(EVERY_KIND.nodes) for field in dataclasses.fields(node)]


@pytest.mark.parametrize("index,field", fields_of_every_kind())
def test_every_field_of_every_kind_of_node_is_in_the_json_and_the_digest(index: int, field: str) -> None:
    nodes = list(EVERY_KIND.nodes)
    nodes[index] = changed_field(nodes[index], field)
    assert nodes[index] != EVERY_KIND.nodes[index]
    document = json.loads(EVERY_KIND.to_json())
    document["nodes"][index] = {"node": type(nodes[index]).__name__} | dataclasses.asdict(nodes[index])
    try:
        other = Network(EVERY_KIND.name, EVERY_KIND.input_shape, tuple(nodes), EVERY_KIND.source)
    except InputError:
        pytest.fail(f"choose a value for {field} that the network can take")
    assert other != EVERY_KIND
    assert other.digest != EVERY_KIND.digest
    assert Network.from_json(json.dumps(document)) == other


def test_the_test_networks_hold_every_kind_of_node() -> None:
    made = (*EVERY_KIND.nodes, *walk(BRANCHED.nodes))
    assert {type(node).__name__ for node in made} == set(KINDS)


def with_changed(name: str, field: str) -> Network:
    """`BRANCHED` with one field of one node changed."""

    def change(node: Node) -> Node:
        return changed_field(node, field) if node.name == name else node

    return dataclasses.replace(BRANCHED, nodes=edited(BRANCHED.nodes, change))


def changeable_fields() -> list[tuple[str, str]]:
    """Every field except those whose change does not fit the next layers."""
    found = []
    for node in walk(BRANCHED.nodes):
        for field in dataclasses.fields(node):
            with contextlib.suppress(InputError):
                with_changed(node.name, field.name)
                found.append((node.name, field.name))
    return found


def test_most_fields_of_the_nodes_within_nodes_can_be_changed() -> None:
    found = changeable_fields()
    assert len(found) > 80 and {name for name, _ in found} == {node.name for node in walk(BRANCHED.nodes)}


@pytest.mark.parametrize("name,field", changeable_fields())
def test_every_field_of_a_node_within_a_node_is_in_the_json_and_the_digest(name: str, field: str) -> None:
    other = with_changed(name, field)
    assert other != BRANCHED
    assert other.digest != BRANCHED.digest
    assert Network.from_json(other.to_json()) == other


def test_endlessly_nested_nodes_are_refused_in_one_line() -> None:
    node = {"node": "ReLU", "name": "relu"}
    for number in range(300):
        node = {"node": "Branches", "name": f"b{number}", "branches": [[node]]}
    with pytest.raises(InputError) as caught:
        Network.from_json(json.dumps({"name": "deep", "input_shape": [1], "nodes": [node], "source": ""}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "branches", [[[], []], [[7]], [7], 7, [[{"node": "Branch", "name": "x"}]], [[{"node": "Tanh"}]], [{"scale": 1}]]
)
def test_branches_that_are_no_sequences_of_nodes_are_refused(branches: object) -> None:
    document = json.loads(BRANCHED.to_json())
    document["nodes"][3]["branches"] = branches
    with pytest.raises(InputError):
        Network.from_json(json.dumps(document))


def test_equal_networks_have_equal_digests_whatever_their_numbers_form() -> None:
    def with_scale(scale: float) -> Network:
        return Network("same", (3,), (Linear("fc", 2, init=Init("normal", scale)),))

    assert with_scale(1) == with_scale(1.0)
    assert with_scale(1).digest == with_scale(1.0).digest


def test_an_integer_is_accepted_for_a_float() -> None:
    document = json.loads(EVERY_KIND.to_json())
    document["nodes"][1]["start_variance"] = 0
    assert Network.from_json(json.dumps(document)).parameters["norm.variance"].init == ZEROS


def damaged(change: Callable[[dict[str, Any]], Any]) -> str:
    document = json.loads(EVERY_KIND.to_json())
    change(document)
    return json.dumps(document)


def node_with(index: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["nodes"][index].update(fields)


CONV, NORM, PEAK, MEAN, DROP, FLAT, FC = 0, 1, 3, 4, 5, 6, 7
HUGE = 10**400

WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown kind": (node_with(CONV, node="Convolution"), "'Convolution'"),
    "kind of another type": (node_with(CONV, node=3), "3"),
    "kind null": (node_with(CONV, node=None), "None"),
    "kind is a list": (node_with(CONV, node=["Conv"]), "Conv"),
    "kind is an object": (node_with(CONV, node={"Conv": 1}), "Conv"),
    "kind missing": (lambda d: d["nodes"][CONV].pop("node"), "None"),
    "node is a number": (lambda d: d["nodes"].__setitem__(CONV, 17), "17"),
    "node is a list": (lambda d: d["nodes"].__setitem__(CONV, ["Conv"]), "Conv"),
    "unknown field": (node_with(CONV, kernel_size=3), "'kernel_size'"),
    "field of another kind": (node_with(FC, filters=3), "'filters'"),
    "missing field": (lambda d: d["nodes"][CONV].pop("filters"), "'filters'"),
    "missing name": (lambda d: d["nodes"][CONV].pop("name"), "'name'"),
    "text for a number": (node_with(CONV, kernel="3"), "kernel"),
    "float for an int": (node_with(CONV, kernel=3.0), "kernel"),
    "true for an int": (node_with(CONV, groups=True), "groups"),
    "null for an int": (node_with(CONV, filters=None), "filters"),
    "list for an int": (node_with(CONV, stride=[1, 1]), "stride"),
    "int for a bool": (node_with(CONV, bias=1), "bias"),
    "text for a float": (node_with(NORM, eps="1e-5"), "eps"),
    "true for a float": (node_with(NORM, decay=True), "decay"),
    "number for a name": (node_with(CONV, name=5), "name"),
    "number for an initialiser": (node_with(CONV, init=1), "init"),
    "object for a number": (node_with(CONV, kernel={"distribution": "normal", "scale": 1.0}), "kernel"),
    "unknown field of an initialiser": (lambda d: d["nodes"][FC]["init"].update(std=1), "'std'"),
    "missing field of an initialiser": (lambda d: d["nodes"][FC]["init"].pop("scale"), "'scale'"),
    "text for a scale": (lambda d: d["nodes"][FC]["init"].update(scale="1"), "scale"),
    "unknown distribution": (lambda d: d["nodes"][FC]["init"].update(distribution="cauchy"), "cauchy"),
    "unknown fan": (lambda d: d["nodes"][FC]["init"].update(fan="out"), "out"),
    "negative filters": (node_with(CONV, filters=-6), "conv.filters"),
    "filters beyond any tensor": (node_with(CONV, filters=HUGE), "conv.filters"),
    "units beyond any tensor": (node_with(FC, units=2**31), "fc.units"),
    "kernel beyond any tensor": (node_with(CONV, kernel=HUGE, padding=HUGE), "conv.kernel"),
    "input beyond any tensor": (lambda d: d.update(input_shape=[4, HUGE, HUGE]), "input_shape"),
    "name that moves the cursor": (lambda d: d.update(name="a\x1b[2J"), "'a\\x1b[2J'"),
    "source that moves the cursor": (lambda d: d.update(source="a\x1b[2J"), "source must be printable"),
    "no filters": (node_with(CONV, filters=0), "conv.filters"),
    "no kernel": (node_with(CONV, kernel=0), "conv.kernel"),
    "no stride": (node_with(CONV, stride=0), "conv.stride"),
    "negative padding": (node_with(CONV, padding=-1), "conv.padding"),
    "no groups": (node_with(CONV, groups=0), "conv.groups"),
    "groups that do not divide": (node_with(CONV, groups=3), "conv"),
    "no pool size": (node_with(PEAK, size=0), "peak.size"),
    "negative pool stride": (node_with(PEAK, stride=-2), "peak.stride"),
    "negative units": (node_with(FC, units=-5), "fc.units"),
    "a window too large": (node_with(PEAK, size=20), "peak"),
    "running variance of another kind": (node_with(NORM, variance="both"), "'both'"),
    "rate 0": (node_with(DROP, rate=0.0), "drop"),
    "rate 1": (node_with(DROP, rate=1.0), "drop"),
    "negative rate": (node_with(DROP, rate=-0.5), "drop"),
    "rate not a number": (node_with(DROP, rate=float("nan")), "drop"),
    "unknown dropout kind": (node_with(DROP, kind="none"), "'none'"),
    "negative eps": (node_with(NORM, eps=-1e-5), "eps"),
    "eps not a number": (node_with(NORM, eps=float("nan")), "eps"),
    "eps beyond float": (node_with(NORM, eps=HUGE), "eps"),
    "decay above 1": (node_with(NORM, decay=1.5), "decay"),
    "negative decay": (node_with(NORM, decay=-0.1), "decay"),
    "negative start variance": (node_with(NORM, start_variance=-1.0), "start_variance"),
    "infinite scale": (lambda d: d["nodes"][FC]["init"].update(scale=float("inf")), "scale"),
    "scale not a number": (lambda d: d["nodes"][FC]["init"].update(scale=float("nan")), "scale"),
    "name twice": (node_with(FC, name="conv"), "conv"),
    "name with a dot": (node_with(FC, name="fc.1"), "fc.1"),
    "name with a line break": (node_with(FC, name="f\nc"), "f\\nc"),
    "name with a line break, unknown field": (node_with(FC, name="f\nc", x=1), "f\\nc"),
    "name of a module's own": (node_with(FC, name="forward"), "cannot be called forward"),
    "name of the optimizer's slots": (node_with(FC, name="optimizer"), "cannot be called optimizer"),
    "name with an underscore before it": (node_with(FC, name="_fc"), "cannot be called _fc"),
    "no name": (node_with(FC, name=""), "''"),
    "no layers": (lambda d: d.update(nodes=[]), "at least one"),
    "Flatten missing": (lambda d: d["nodes"].pop(FLAT), "fc"),
    "Flatten too early": (lambda d: d["nodes"].insert(0, {"node": "Flatten", "name": "early"}), "conv"),
    "an image as output": (lambda d: d["nodes"].__delitem__(slice(FLAT, None)), "drop"),
    "no channels": (lambda d: d.update(input_shape=[0, 9, 7]), "input_shape"),
    "negative channels": (lambda d: d.update(input_shape=[-4, 9, 7]), "input_shape"),
    "input of floats": (lambda d: d.update(input_shape=[4.0, 9, 7]), "input_shape"),
    "input of truths": (lambda d: d.update(input_shape=[True, True, True]), "input_shape"),
    "input not a list": (lambda d: d.update(input_shape=4), "input_shape"),
    "input of two sizes": (lambda d: d.update(input_shape=[4, 9]), "(4, 9)"),
    "unknown field of the network": (lambda d: d.update(classes=10), "'classes'"),
    "network without a name": (lambda d: d.pop("name"), "'name'"),
    "network without an input": (lambda d: d.pop("input_shape"), "'input_shape'"),
    "network without nodes": (lambda d: d.pop("nodes"), "'nodes'"),
    "nodes not a list": (lambda d: d.update(nodes={"conv": 1}), "'nodes'"),
    "a number for the network's name": (lambda d: d.update(name=3), "name"),
    "a number for the source": (lambda d: d.update(source=3), "source"),
}


@pytest.mark.parametrize("damage", WRONG)
def test_invalid_json_is_an_input_error_of_one_line_that_names_the_field(damage: str) -> None:
    change, culprit = WRONG[damage]
    with pytest.raises(InputError) as caught:
        Network.from_json(damaged(change))
    message = str(caught.value)
    assert culprit in message
    assert message.isprintable() and len(message) < 300


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "3", '"vgg_mini"', "vgg_mini", '{"name": "x"} x', "\0", "[" * 100_000],
    ids=lambda t: t[:9],
)
def test_garbage_instead_of_json_is_an_input_error_of_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"^network") as caught:
        Network.from_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values in a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


DOCUMENT = json.loads(EVERY_KIND.to_json())
LEAVES = st.none() | st.booleans() | st.integers(-3, 9) | st.floats(-2, 2) | st.text("ab\n'", max_size=3)
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.sampled_from(["node", "name", "scale"]), LEAVES)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(places(DOCUMENT)[1:]), VALUES)
def test_any_value_anywhere_in_the_json_gives_a_network_or_a_one_line_input_error(
    place: tuple[Any, ...], value: Any
) -> None:
    document = copy.deepcopy(DOCUMENT)
    *parents, last = place
    holder = document
    for key in parents:
        holder = holder[key]
    holder[last] = value
    try:
        network = Network.from_json(json.dumps(document))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert Network.from_json(network.to_json()) == network
