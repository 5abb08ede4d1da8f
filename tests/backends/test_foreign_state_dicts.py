"""State dicts of torchvision's and paddle.vision's VGG are loaded by name, and our networks then compute what theirs do."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from helpers.conversion_samples import SUFFIXES
from helpers.processes import alone
from parity.backend.worker import Worker
from parity.cli import convert
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, Dropout, Flatten, Linear, MaxPool, Node, ReLU
from parity.recipe.optimizer import Optimizer
from parity.weights import canonical_state, state_dict_names

THEIRS = {
    "torch": """
import sys, numpy, torch
from torch import nn
from torchvision.models.vgg import VGG, make_layers
torch.save({"fc1.weight": torch.zeros(1).expand(10**6)}, f"{sys.argv[1]}/shared.pt")
for norm in (False, True):
    torch.manual_seed(1)
    features = make_layers([4, "M", 6, 5, "M"], batch_norm=norm)
    with torch.device("meta"):
        model = VGG(features, init_weights=False)
    linear = [nn.Linear(5 * 49, 8), nn.Linear(8, 8), nn.Linear(8, 3)]
    model.classifier = nn.Sequential(linear[0], nn.ReLU(), nn.Dropout(), linear[1], nn.ReLU(), nn.Dropout(), linear[2])
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or name in ("features.1.weight", "features.1.bias"):
            tensor.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), f"{sys.argv[1]}/{norm}.pt", _use_new_zipfile_serialization=norm)  # or as in 2017
    images = torch.randn(4, 3, 28, 28)
    with torch.no_grad():
        logits = model.double().eval()(images.double())
    numpy.savez(f"{sys.argv[1]}/{norm}.npz", images=images.numpy(), logits=logits.numpy())
""",
    "paddle": """
import sys, numpy, paddle
from paddle import nn
from paddle.vision.models.vgg import VGG, make_layers
numbers = numpy.zeros(1000)
paddle.save({f"fc{i}.weight": numbers for i in range(9)}, f"{sys.argv[1]}/shared.pdparams")
for norm in (False, True):
    paddle.seed(1)
    model = VGG(make_layers([4, "M", 6, 5, "M"], batch_norm=norm), num_classes=0)
    model.num_classes = 3
    linear = [nn.Linear(5 * 49, 8), nn.Linear(8, 8), nn.Linear(8, 3)]
    model.classifier = nn.Sequential(linear[0], nn.ReLU(), nn.Dropout(), linear[1], nn.ReLU(), nn.Dropout(), linear[2])
    for name, tensor in model.state_dict().items():
        if name.endswith(("_mean", "_variance")) or name in ("features.1.weight", "features.1.bias"):
            paddle.assign(paddle.uniform(tensor.shape, min=0.5, max=1.5), tensor)
    paddle.save(model.state_dict(), f"{sys.argv[1]}/{norm}.pdparams")
    images = paddle.randn([4, 3, 28, 28])
    model.eval()
    with paddle.no_grad():
        logits = model.to(dtype="float64")(images.astype("float64"))
    numpy.savez(f"{sys.argv[1]}/{norm}.npz", images=images.numpy(), logits=logits.numpy())
""",
}
"""A narrow VGG of torchvision and of paddle.vision, without and with batch norm: its state dict, and its outputs for images."""


def same_structure(norm: bool) -> Network:
    nodes: list[Node] = []
    for i, filters in enumerate((4, 0, 6, 5, 0)):
        norms = (BatchNorm(f"bn{i}"),) if norm else ()
        nodes += [Conv(f"conv{i}", filters), *norms, ReLU(f"relu{i}")] if filters else [MaxPool(f"pool{i}")]
    nodes += [Flatten("flatten"), Linear("fc1", 8), ReLU("relu_fc1"), Dropout("drop1"), Linear("fc2", 8)]
    nodes += [ReLU("relu_fc2"), Dropout("drop2"), Linear("fc3", 3)]
    return Network("theirs", (3, 28, 28), tuple(nodes))


@pytest.fixture(scope="module", params=list(THEIRS))
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    place = tmp_path_factory.mktemp(request.param)
    alone(THEIRS[request.param], place)
    return request.param, place


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "with batch norm"])
def test_a_vgg_of_torchvision_or_paddle_vision_computes_the_same_on_both_sides(
    norm: bool,
    theirs: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    worker: Worker,
    workers: dict[str, Worker],
) -> None:
    (made_in, place), network = theirs, same_structure(norm)
    monkeypatch.setattr(convert, "Worker", lambda framework: nullcontext(workers[framework]))
    (tmp_path / "theirs.json").write_text(network.to_json())
    words = [f"{place}/{norm}{SUFFIXES[made_in]}", f"{tmp_path}/a.safetensors", "--network", f"{tmp_path}/theirs.json"]
    assert convert.main(words) == 0
    _, state, _ = canonical_state.load(tmp_path / "a.safetensors")
    worker.start(network, Optimizer("momentum", rate=0.1), {name: a.astype(np.float64) for name, a in state.items()})
    with np.load(place / f"{norm}.npz") as known:
        found, expected = worker.predict(known["images"].astype(np.float64))["logits"], known["logits"]
    assert np.abs(expected).max() > 0.01
    # Our eps is float32(1e-5), which differs by 2.5e-13 from torchvision's. Each of three batch norms adds it to variances of at least 0.5.
    assert np.linalg.norm(found - expected) <= 2e-12 * np.linalg.norm(expected)


def test_a_state_dict_must_have_exactly_the_names_and_shapes_of_the_network() -> None:
    network = same_structure(True)
    state = {name: np.zeros(p.shape, np.float32) for name, p in network.parameters.items()}
    spelled = state_dict_names.layer_spellings(network)["torchvision"]
    given = {}
    for name, array in state.items():
        layer, _, key = name.partition(".")
        given[f"{spelled[layer]}.{ {'gamma': 'weight', 'beta': 'bias'}.get(key, key) }"] = array
    assert list(state_dict_names.fit(network, given)) == list(network.parameters)
    assert "features.8.mean" in given and "classifier.6.weight" in given
    for change, message in (
        ({name: array for name, array in given.items() if name != "features.8.mean"}, "features.8.mean is missing"),
        (given | {"features.2.weight": np.zeros(4)}, "features.2.weight is not a parameter of network theirs"),
        (given | {"fc1.weight": state["fc1.weight"]}, "fc1.weight is not a parameter of network theirs"),
        (given | {"classifier.3.weight": np.zeros((8, 9))}, "fc2.weight has shape"),
    ):
        with pytest.raises(InputError, match=message):
            state_dict_names.fit(network, change)


def test_arrays_that_share_their_numbers_are_refused(theirs: tuple[str, Path], workers: dict[str, Worker]) -> None:
    made_in, place = theirs
    with pytest.raises(InputError, match="its arrays share their numbers"):
        workers[made_in].read_file(place / f"shared{SUFFIXES[made_in]}")
