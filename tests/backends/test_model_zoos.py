"""Our vgg_a, b, d, e and resnet18 compute what vgg11, 13, 16, 19 and resnet18 of torchvision and paddle.vision compute.

Their classes run in their own processes (`zoo_programs`). Images have 224 pixels, because only there their adaptive pool does nothing. The
VGGs are narrow unless a test says otherwise.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.conversion_samples import SUFFIXES, bits
from helpers.processes import alone
from helpers.zoo_programs import PROGRAMS, READERS
from parity.backend.worker import Worker
from parity.cli import convert
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import Conv, Linear, Node, edited
from parity.recipe.optimizer import Optimizer
from parity.weights import canonical_state, state_dict_names

LETTERS = {"vgg11": "a", "vgg13": "b", "vgg16": "d", "vgg19": "e"}
WHOLE = {name + norm: f"vgg_{letter}{norm}" for norm in ("", "_bn") for name, letter in LETTERS.items()} | {
    "resnet18": "resnet18"
}
"""Their name -> our name."""
NARROW = {f"{letter.upper()}{norm}": f"vgg_{letter}{norm}" for norm in ("", "_bn") for letter in LETTERS.values()}
ZOOS = tuple(PROGRAMS)
WATCHED = {"first": "conv1_1.weight", "last": "fc8.bias"}
WATCHED_IN_RESNET = {"first": "conv1.weight", "shortcut": "block2_1_down.weight", "last": "fc.bias"}
"""Our names for what the programs call `watched`."""
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
    """The results of all narrow VGGs and of resnet18 of a zoo."""
    place = tmp_path_factory.mktemp(zoo)
    alone(PROGRAMS[zoo], place, *NARROW, "resnet18")
    return zoo, place


def assert_same(place: Path, made_in: str, theirs: str, network: Network, worker: Worker, reader: Worker) -> None:
    """Assert that `worker` computes their results with `network` and their state dict: inference and a training step."""
    state = state_dict_names.fit(network, reader.read_file(place / f"{theirs}{SUFFIXES[made_in]}")[0])
    worker.start(network, PLAIN, {name: array.astype(np.float64) for name, array in state.items()}, "float64")
    with np.load(place / f"{theirs}.npz") as known:
        images, labels = known["images"].astype(np.float64), known["labels"]
        wanted = {
            name: known[name] for name in known.files if name in ("eval", "train") or name.startswith("gradient/")
        }
        masks = {name: known[f"mask{name[-1]}"] for name in network.dropouts}
    found = {"eval": worker.predict(images)["logits"]}
    record = worker.step(images, labels, masks, 0.0, len(labels), ("forward", "gradient"))[0]
    found |= {"train": record[f"forward/{network.output}"]}
    watched = WATCHED_IN_RESNET if theirs == "resnet18" else WATCHED
    found |= {f"gradient/{where}": record[f"gradient/{name}"] for where, name in watched.items()}
    assert found.keys() == wanted.keys()
    assert not np.array_equal(wanted["eval"], wanted["train"])
    for name, array in wanted.items():
        assert np.abs(array).max() > 1e-3, f"{name} is next to nothing"
        assert np.linalg.norm(found[name] - array) <= BOUND * np.linalg.norm(array), name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("A", "D_bn") else pytest.mark.slow) for name in NARROW]
)
def test_a_narrow_vgg_of_theirs_computes_the_same_in_ours_in_inference_and_training(
    name: str, computed: tuple[str, Path], worker: Worker, workers: dict[str, Worker]
) -> None:
    made_in, place = computed
    assert_same(place, made_in, name, narrow(NARROW[name]), worker, workers[made_in])


def test_their_resnet18_computes_the_same_in_ours_in_inference_and_training(
    computed: tuple[str, Path], worker: Worker, workers: dict[str, Worker]
) -> None:
    made_in, place = computed
    assert_same(place, made_in, "resnet18", articles.get_network("resnet18"), worker, workers[made_in])


@pytest.mark.slow
def test_their_resnet18_goes_through_ours_into_the_classes_of_both_bit_for_bit(
    computed: tuple[str, Path], workers: dict[str, Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in, place = computed
    monkeypatch.setattr(convert, "Worker", lambda framework: nullcontext(workers[framework]))
    theirs, ours = place / f"resnet18{SUFFIXES[made_in]}", tmp_path / "ours.safetensors"
    assert convert.main([str(theirs), str(ours)]) == 0
    network, state, _ = canonical_state.load(ours)
    assert network == articles.get_network("resnet18") and network.trainable_count == 11_689_512
    known = bits(workers[made_in].read_file(theirs)[0])
    assert sorted(bits(state).values()) == sorted(known.values())
    with np.load(place / "resnet18.npz") as results:
        scores = results["eval"]
    for framework, names in (("torch", "torchvision"), ("paddle", "paddle.vision")):
        written, found = tmp_path / f"again{SUFFIXES[framework]}", tmp_path / f"{framework}.npy"
        assert convert.main([str(ours), str(written), "--names", names]) == 0
        assert bits(workers[framework].read_file(written)[0]) == known
        alone(READERS[framework], written, place / "resnet18.npz", found)
        assert np.linalg.norm(np.load(found) - scores) <= BOUND * np.linalg.norm(scores)


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
