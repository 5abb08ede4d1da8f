"""Our vgg_a, b, d and e, with and without batch norm, compute what vgg11, 13, 16 and 19 of torchvision and paddle.vision compute.

Their classes run in their own processes (`zoo_programs`). Images have 224 pixels, because only there their adaptive pool does nothing. The
networks are narrow unless a test says otherwise.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.conversion_samples import SUFFIXES
from helpers.processes import alone
from helpers.zoo_programs import PROGRAMS
from parity.backend.worker import Worker
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import Conv, Linear, Node, edited
from parity.recipe.optimizer import Optimizer
from parity.weights import state_dict_names

LETTERS = {"vgg11": "a", "vgg13": "b", "vgg16": "d", "vgg19": "e"}
WHOLE = {name + norm: f"vgg_{letter}{norm}" for norm in ("", "_bn") for name, letter in LETTERS.items()}
"""Their name -> our name."""
NARROW = {f"{letter.upper()}{norm}": f"vgg_{letter}{norm}" for norm in ("", "_bn") for letter in LETTERS.values()}
ZOOS = tuple(PROGRAMS)
PLAIN = Optimizer("momentum", rate=0.125)
BOUND = 1e-12
WIDTH = 16


def narrow(name: str) -> Network:
    """Our network, narrow like theirs: a sixteenth of the filters, fc 32, 32, 10, and the same dropout."""
    units = {"fc6": 32, "fc7": 32, "fc8": 10}

    def change(node: Node) -> Node:
        if isinstance(node, Conv):
            return replace(node, filters=max(4, node.filters // WIDTH))
        return replace(node, units=units[node.name]) if isinstance(node, Linear) else node

    whole = articles.get_network(name)
    return replace(whole, nodes=edited(whole.nodes, change))


@pytest.fixture(scope="module", params=ZOOS, ids=["torchvision", "paddle.vision"])
def zoo(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def computed(zoo: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The results of all narrow networks of a zoo."""
    place = tmp_path_factory.mktemp(zoo)
    alone(PROGRAMS[zoo], place, *NARROW)
    return zoo, place


def assert_same(place: Path, made_in: str, theirs: str, network: Network, worker: Worker, reader: Worker) -> None:
    """Assert that `worker` computes their results with `network` and their state dict: inference and a training step."""
    state = state_dict_names.fit(network, reader.read_file(place / f"{theirs}{SUFFIXES[made_in]}")[0])
    worker.start(network, PLAIN, {name: array.astype(np.float64) for name, array in state.items()}, "float64")
    with np.load(place / f"{theirs}.npz") as known:
        images, labels = known["images"].astype(np.float64), known["labels"]
        wanted = {name: known[name] for name in ("eval", "train", "gradient/first", "gradient/last")}
        masks = {name: known[f"mask{name[-1]}"] for name in ("drop6", "drop7")}
    found = {"eval": worker.predict(images)["logits"]}
    record = worker.step(images, labels, masks, 0.0, len(labels), ("forward", "gradient"))[0]
    found |= {"train": record[f"forward/{network.output}"], "gradient/first": record["gradient/conv1_1.weight"]}
    found |= {"gradient/last": record["gradient/fc8.bias"]}
    assert not np.array_equal(wanted["eval"], wanted["train"])
    for name, array in wanted.items():
        assert np.abs(array).max() > 1e-3, f"{name} is next to nothing"
        assert np.linalg.norm(found[name] - array) <= BOUND * np.linalg.norm(array), name


@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_vgg_of_theirs_computes_the_same_in_ours_in_inference_and_training(
    name: str, computed: tuple[str, Path], worker: Worker, workers: dict[str, Worker]
) -> None:
    made_in, place = computed
    assert_same(place, made_in, name, narrow(NARROW[name]), worker, workers[made_in])


def test_their_full_networks_have_our_layers_and_number_of_parameters(zoo: str) -> None:
    shapes = json.loads(alone(PROGRAMS[zoo], "shapes", *WHOLE))
    assert list(shapes) == list(WHOLE)
    for theirs, ours in WHOLE.items():
        network, given = articles.get_network(ours), {}
        for key, shape in shapes[theirs].items():
            array = np.broadcast_to(np.float32(0), shape)  # takes no memory
            if not key.endswith("num_batches_tracked"):
                name = key.replace("running_mean", "mean").replace("running_var", "variance").replace("._", ".")
                given[name] = array.T if zoo == "paddle" and array.ndim == 2 else array
        state = state_dict_names.fit(network, given)
        statistics = sum(array.size for name, array in state.items() if name.endswith((".mean", ".variance")))
        assert sum(array.size for array in given.values()) == network.trainable_count + statistics
        assert statistics == network.statistics_count


@pytest.mark.slow
def test_a_full_network_of_theirs_computes_the_same_in_ours(
    zoo: str, tmp_path: Path, framework: str, worker: Worker, workers: dict[str, Worker]
) -> None:
    alone(PROGRAMS[zoo], tmp_path, "vgg11")
    assert_same(tmp_path, zoo, "vgg11", articles.get_network("vgg_a"), worker, workers[zoo])
