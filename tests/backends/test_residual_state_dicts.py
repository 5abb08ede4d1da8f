"""State dicts of residual networks by the names of CIFAR-10 repositories; `test_model_zoos.py` has resnet18 of the two libraries."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from helpers.processes import alone
from helpers.refusals import Refused, refusal
from parity.backend.worker import Worker
from parity.cli import convert
from parity.errors import InputError
from parity.network import articles
from parity.recipe.optimizer import Optimizer
from parity.weights import canonical_state, state_dict_names

THEIRS = """
import sys, numpy, torch
from torch import nn
from torch.nn import functional as F

def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, name):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.name, self.added = name, (outputs - inputs) // 2
        if name and stride > 1:
            self.add_module(name, nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added and not self.name:  # option A
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return F.relu(y + (getattr(self, self.name)(x) if self.added and self.name else x))

class Net(nn.Module):
    def __init__(self, shortcut, linear):
        super().__init__()
        self.conv1, self.bn1, self.last, inputs = conv(3, 16, 3), nn.BatchNorm2d(16), linear, 16
        for group, width in enumerate((16, 32, 64), start=1):
            blocks = []
            for number in range(3):
                blocks.append(Block(inputs, width, 2 if group > 1 and not number else 1, shortcut))
                inputs = width
            self.add_module(f"layer{group}", nn.Sequential(*blocks))
        self.add_module(linear, nn.Linear(64, 10))

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return getattr(self, self.last)(x.mean((2, 3)))

torch.manual_seed(1)
for name, words in (("a", ("", "linear")), ("b", ("shortcut", "linear")), ("torchvision", ("downsample", "fc"))):
    model = Net(*words)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var") or (tensor.ndim == 1 and key.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1:
            tensor.uniform_(-0.1, 0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = float(numpy.float32(module.eps))  # as Paddle's kernels and our nodes have it
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, f"{sys.argv[1]}/{name}.pth")
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        logits = model.double().eval()(images.double())
    numpy.savez(f"{sys.argv[1]}/{name}.npz", images=images.numpy(), logits=logits.numpy())
"""
"""ResNet-20 with options A and B of pytorch_resnet_cifar10, and by the names of pytorch-cifar-models, wrapped as the first one saves it."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("residual")
    alone(THEIRS, place)
    return place


@pytest.fixture(autouse=True)
def lent_workers(workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "Worker", lambda framework: nullcontext(workers[framework]))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the command, which must refuse its input and change nothing. Return its message after `error: `."""
    return lambda *arguments: refusal(convert.main, arguments, tmp_path, capsys)


@pytest.mark.parametrize("name", ["b", "torchvision"])
def test_a_resnet20_with_shortcut_b_is_found_by_its_names_and_computes_the_same(
    name: str, theirs: Path, tmp_path: Path, worker: Worker
) -> None:
    assert convert.main([f"{theirs}/{name}.pth", f"{tmp_path}/a.safetensors"]) == 0
    network, state, _ = canonical_state.load(tmp_path / "a.safetensors")
    assert network == articles.get_network("resnet20_b")
    worker.start(network, Optimizer("momentum", rate=0.1), {key: a.astype(np.float64) for key, a in state.items()})
    with np.load(theirs / f"{name}.npz") as known:
        found, expected = worker.predict(known["images"].astype(np.float64))["logits"], known["logits"]
    assert np.abs(expected).max() > 0.01
    assert np.linalg.norm(found - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.parametrize("network", [(), ("--network", "resnet20"), ("--network", "plain20")], ids=" ".join)
def test_shortcuts_without_weights_are_refused_because_they_may_pad_otherwise(
    network: tuple[str, ...], theirs: Path, tmp_path: Path, refused: Refused
) -> None:
    said = refused(f"{theirs}/a.pth", f"{tmp_path}/a.safetensors", *network)
    assert "its shortcuts have no weights, as with option A of pytorch_resnet_cifar10" in said


def test_a_residual_network_with_other_classes_is_proposed_by_name_and_read(tmp_path: Path, refused: Refused) -> None:
    network = articles.get_network("resnet20_b+classes100")
    random = np.random.default_rng(5)
    state = {name: random.standard_normal(p.shape, np.float32) for name, p in network.parameters.items()}
    spelled = state_dict_names.spell(network, state, "timm")
    assert {"layer3.0.downsample.1.running_var", "layer1.2.bn2.weight", "fc.bias"} < spelled.keys()
    theirs, ours = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    theirs.write_bytes(canonical_state.encode(spelled, {"format": "pt"}))
    assert f"it fits {network.name}: pass --network {network.name}" in refused(str(theirs), str(ours))
    assert convert.main([str(theirs), str(ours), "--network", network.name]) == 0
    _, found, _ = canonical_state.load(ours)
    assert found.keys() == state.keys() and all(np.array_equal(found[name], a) for name, a in state.items())


def test_a_deeper_or_shallower_residual_network_is_refused() -> None:
    networks = {name: articles.get_network(name) for name in ("resnet20_b", "resnet32_b")}
    given = {
        name: state_dict_names.from_any_framework(
            state_dict_names.spell(network, canonical_state.initialise(network, 0), "torchvision")
        )
        for name, network in networks.items()
    }
    with pytest.raises(
        InputError, match=r"layer1\.3\.conv1\.weight is not a parameter of network resnet20_b \(60 such"
    ):
        state_dict_names.fit(networks["resnet20_b"], given["resnet32_b"])
    with pytest.raises(InputError, match=r"layer1\.3\.conv1\.weight is missing .* it is not of network resnet32_b"):
        state_dict_names.fit(networks["resnet32_b"], given["resnet20_b"])


@pytest.mark.parametrize("name", ["resnet20", "plain20"])
@pytest.mark.parametrize("convention", state_dict_names.CONVENTIONS)
def test_no_names_are_written_for_shortcuts_without_weights(name: str, convention: str) -> None:
    network = articles.get_network(name)
    with pytest.raises(InputError, match=f"network {name} has no names in {convention}: leave out --names"):
        state_dict_names.spell(network, canonical_state.initialise(network, 0), convention)
