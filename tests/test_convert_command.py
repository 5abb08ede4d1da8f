"""`convert_weights.py`: every direction bit for bit, files that the frameworks load themselves, and bad files refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from refusals import Payload, contents, saved_run

from parity import foreign, networks, v2_tar, weights
from parity.commands import convert_weights
from parity.errors import InputError
from parity.network import Network
from parity.nodes import BatchNorm, Conv, Flatten, Linear, MaxPool, Node, ReLU
from parity.nodes import Dropout as DropoutNode
from parity.recipe import Optimizer
from parity.weights import State, slot_names
from parity.worker import Worker

ROOT = Path(__file__).parents[1]
NAME = "vgg16_bn_drop@0.03125"
NETWORK = networks.get(NAME)
SLOTS = slot_names(NETWORK, ["velocity"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: dict[str, Worker]) -> Iterator[Path]:
    """The working directory; the workers of the session stand for those that the command starts."""
    monkeypatch.setattr(convert_weights, "Worker", lambda framework: nullcontext(workers[framework]))
    before = Path.cwd()
    yield tmp_path
    os.chdir(before)


@pytest.fixture
def convert(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, object]]:
    """Runs the command, which must succeed, on names in the folder; returns its JSON, with what it said as `said`."""

    def run(source: str, destination: str, *flags: str) -> dict[str, object]:
        code = convert_weights.main([str(folder / source), str(folder / destination), *flags, "--json"])
        stdout, stderr = capsys.readouterr()
        assert code == 0, stderr
        result: dict[str, object] = json.loads(stdout)
        return result | {"said": stderr}

    return run


def special(dtype: str = "float32") -> State:
    """Random numbers, and among them those that arithmetic would change."""
    random, tiny = np.random.default_rng(3), {"float32": 1e-45, "float64": 5e-324}[dtype]
    state = {name: random.standard_normal(p.shape).astype(dtype) for name, p in NETWORK.parameters.items()}
    for array in state.values():
        array.ravel()[:4] = [np.nan, -np.inf, -0.0, tiny]
    return state


def bits(state: State) -> dict[str, bytes]:
    return {name: f"{array.dtype}{array.shape}".encode() + array.tobytes() for name, array in state.items()}


# ------------------------------------------------------------------------------------------------------------ directions

CIRCLE = [".tar", ".safetensors", ".pdparams", ".pt", ".tar", ".pt", ".pdparams", ".safetensors", ".pt", ".safetensors"]
CIRCLE += [".tar", ".pdparams", ".tar"]
"""Every ordered pair of formats once."""


def test_every_direction_keeps_every_bit(folder: Path, convert: Callable[..., dict[str, object]]) -> None:
    assert len(set(pairwise(CIRCLE))) == 12 == len(CIRCLE) - 1
    first = v2_tar.encode(NETWORK, special())
    (folder / "0.tar").write_bytes(first)
    for i, (source, destination) in enumerate(pairwise(CIRCLE)):
        result = convert(f"{i}{source}", f"{i + 1}{destination}", "--network", NAME)
        assert (result["network"], result["arrays"], result["left_out"]) == (NAME, len(NETWORK.parameters), 0)
        if destination == ".safetensors":
            network, state, _ = weights.load(folder / f"{i + 1}.safetensors")
            assert network == NETWORK
            assert bits(state) == bits(special())
        elif destination == ".tar":
            assert (folder / f"{i + 1}.tar").read_bytes() == first


@pytest.mark.parametrize("suffix", [".pdparams", ".pt"])
def test_float64_goes_through_a_framework_s_file_and_back(
    folder: Path, convert: Callable[..., dict[str, object]], suffix: str
) -> None:
    weights.save(folder / "a.safetensors", NETWORK, special("float64"))
    convert("a.safetensors", f"b{suffix}")
    assert convert(f"b{suffix}", "c.safetensors", "--network", NAME)["dtypes"] == ["float64"]
    assert bits(weights.load(folder / "c.safetensors")[1]) == bits(special("float64"))


def test_slots_and_metadata_stay_where_they_can_be_held_and_are_said_to_be_left_out_elsewhere(
    folder: Path, convert: Callable[..., dict[str, object]]
) -> None:
    run = saved_run(folder / "run")
    convert("run", "a.safetensors")
    kept, original = weights.load(folder / "a.safetensors"), weights.load(run.last)
    assert (kept[0], bits(kept[1]), kept[2]) == (original[0], bits(original[1]), original[2])
    assert "position" in kept[2] and "optimizer.velocity.fc3.bias" in kept[1]
    result = convert("a.safetensors", "b.tar")
    assert result["left_out"] == len(SLOTS)
    assert f"Left out {len(SLOTS)} arrays of the optimizer" in str(result["said"])


def test_an_existing_file_is_replaced(folder: Path, convert: Callable[..., dict[str, object]]) -> None:
    weights.save(folder / "a.safetensors", NETWORK, special())
    (folder / "b.tar").write_text("old")
    convert("a.safetensors", "b.tar")
    assert (folder / "b.tar").read_bytes() == v2_tar.encode(NETWORK, special())
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "b.tar"]


def test_without_network_the_known_one_that_fits_is_taken(
    folder: Path, convert: Callable[..., dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: networks.get(name) for name in ("vgg_mini@0.03125", NAME)}
    monkeypatch.setattr(networks, "NETWORKS", known)
    (folder / "a.tar").write_bytes(v2_tar.encode(NETWORK, special()))
    assert convert("a.tar", "a.pt")["network"] == NAME
    assert convert("a.pt", "a.pdparams")["network"] == NAME


def test_the_script_says_in_one_line_what_it_wrote(folder: Path) -> None:
    (folder / "a.tar").write_bytes(v2_tar.encode(NETWORK, special()))
    command = [
        sys.executable,
        "scripts/convert_weights.py",
        str(folder / "a.tar"),
        str(folder / "a.pt"),
        "--network",
        NAME,
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    numbers = sum(array.size for array in special().values())
    assert ended.stdout == f"Wrote {folder / 'a.pt'}: {NAME}, 88 arrays of {numbers:,} numbers, float32\n"


LOADED = {
    "paddle": """
import sys, numpy, paddle
from paddle_impl.model import build
from parity import networks
model = build(networks.get(sys.argv[1]), 9)
missing, unexpected = model.set_state_dict(paddle.load(sys.argv[2]))
assert not missing and not unexpected, (missing, unexpected)
from paddle_impl.checkpoint import get_weights
numpy.savez(sys.argv[3], **get_weights(model))
""",
    "torch": """
import sys, numpy, torch
from torch_impl.model import build
from parity import networks
model = build(networks.get(sys.argv[1]), 9)
model.load_state_dict(torch.load(sys.argv[2], weights_only=True))
from torch_impl.checkpoint import get_weights
numpy.savez(sys.argv[3], **get_weights(model))
""",
}
"""What somebody who has the model does with a file, in the framework's own words."""


def alone(program: str, *arguments: object) -> None:
    """Runs `program` in a process of its own: two frameworks in one do not live together."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_framework_itself_loads_the_file(
    folder: Path, convert: Callable[..., dict[str, object]], framework: str
) -> None:
    weights.save(folder / "a.safetensors", NETWORK, special())
    file = {"paddle": "b.pdparams", "torch": "b.pt"}[framework]
    convert("a.safetensors", file)
    alone(LOADED[framework], NAME, folder / file, folder / "c.npz")
    assert bits(dict(np.load(folder / "c.npz"))) == bits(special())


# ----------------------------------------------------------------------------------------------- other people's networks

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
"""A narrow VGG of torchvision and of paddle.vision, without and with batch norm: its state dict, and what it makes of images."""


def same_structure(norm: bool) -> Network:
    nodes: list[Node] = []
    for i, filters in enumerate((4, 0, 6, 5, 0)):
        norms = (BatchNorm(f"bn{i}"),) if norm else ()
        nodes += [Conv(f"conv{i}", filters), *norms, ReLU(f"relu{i}")] if filters else [MaxPool(f"pool{i}")]
    nodes += [Flatten("flatten"), Linear("fc1", 8), ReLU("relu_fc1"), DropoutNode("drop1"), Linear("fc2", 8)]
    nodes += [ReLU("relu_fc2"), DropoutNode("drop2"), Linear("fc3", 3)]
    return Network("theirs", (3, 28, 28), tuple(nodes))


@pytest.fixture(scope="module", params=list(THEIRS))
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    place = tmp_path_factory.mktemp(request.param)
    alone(THEIRS[request.param], place)
    return {"torch": ".pt", "paddle": ".pdparams"}[request.param], place


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "with batch norm"])
def test_a_vgg_of_torchvision_or_paddle_vision_computes_the_same_in_both_implementations(
    norm: bool, theirs: tuple[str, Path], folder: Path, convert: Callable[..., dict[str, object]], worker: Worker
) -> None:
    (suffix, place), network = theirs, same_structure(norm)
    (folder / "theirs.json").write_text(network.to_json())
    (folder / f"a{suffix}").write_bytes((place / f"{norm}{suffix}").read_bytes())
    convert(f"a{suffix}", "b.safetensors", "--network", str(folder / "theirs.json"))
    _, state, _ = weights.load(folder / "b.safetensors")
    worker.start(network, Optimizer("momentum", rate=0.1), {name: a.astype(np.float64) for name, a in state.items()})
    with np.load(place / f"{norm}.npz") as known:
        found, expected = worker.predict(known["images"].astype(np.float64))["logits"], known["logits"]
    assert np.abs(expected).max() > 0.01
    # Our eps is float32(1e-5): 2.5e-13 from theirs in torchvision, beside variances of at least 0.5, in each of three batch norms.
    assert np.linalg.norm(found - expected) <= 2e-12 * np.linalg.norm(expected)


def test_a_state_dict_must_have_exactly_the_names_and_shapes_of_the_network() -> None:
    network = same_structure(True)
    state = {name: np.zeros(p.shape, np.float32) for name, p in network.parameters.items()}
    spelled = foreign.layers(network)[1]
    given = {}
    for name, array in state.items():
        layer, _, key = name.partition(".")
        given[f"{spelled[layer]}.{ {'gamma': 'weight', 'beta': 'bias'}.get(key, key) }"] = array
    assert list(foreign.fit(network, given)) == list(network.parameters)
    assert "features.8.mean" in given and "classifier.6.weight" in given
    for change, message in (
        ({name: array for name, array in given.items() if name != "features.8.mean"}, "features.8.mean is missing"),
        (given | {"features.2.weight": np.zeros(4)}, "features.2.weight is no parameter of network theirs"),
        (given | {"fc1.weight": state["fc1.weight"]}, "fc1.weight is no parameter of network theirs"),
        (given | {"classifier.3.weight": np.zeros((8, 9))}, "fc2.weight has shape"),
    ):
        with pytest.raises(InputError, match=message):
            foreign.fit(network, change)


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in the folder, which must refuse its input and change nothing; returns what it said after `error: `."""
    os.chdir(folder)

    def run(*arguments: str) -> str:
        before = contents(folder)
        try:
            code = convert_weights.main([*arguments, "--json"])
        except SystemExit as ended:
            code = int(ended.code or 0)
        stdout, stderr = capsys.readouterr()
        assert (code, stdout) == (2, "")
        assert contents(folder) == before
        assert stderr.count("\n") == 1 and stderr.startswith("error: "), stderr
        return stderr.removeprefix("error: ")

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, workers: dict[str, Worker]) -> dict[str, bytes]:
    """A good file of each format."""
    place = tmp_path_factory.mktemp("good")
    weights.save(place / "a.safetensors", NETWORK, special())
    (place / "a.tar").write_bytes(v2_tar.encode(NETWORK, special()))
    workers["paddle"].write_file(place / "a.pdparams", NETWORK, special(), "float32")
    workers["torch"].write_file(place / "a.pt", NETWORK, special(), "float32")
    return {path.suffix: path.read_bytes() for path in place.iterdir()}


FORMATS = [".safetensors", ".tar", ".pdparams", ".pt"]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a byte": lambda data: b"\x80",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by 3000 bytes": lambda data: data[:-12000],
    "zeros": lambda data: bytes(len(data)),
    "a text": lambda data: b"<html>404</html>" * 99,
    "twice as long as it can be": lambda data: data + bytes(2**22),
    "a pickle of a number": lambda data: pickle.dumps(3),
    "a pickle of a list": lambda data: pickle.dumps([1, 2]),
    "a pickle of whole numbers": lambda data: pickle.dumps({"fc1.weight": np.arange(3)}, 4),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_nothing_is_written(
    damage: str, suffix: str, files: dict[str, bytes], refused: Callable[..., str]
) -> None:
    Path(f"a{suffix}").write_bytes(DAMAGE[damage](files[suffix]))
    Path("b.tar").write_text("old")
    assert f"a{suffix}" in refused(f"a{suffix}", "b.tar", "--network", NAME)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_a_file_of_another_format_is_refused(
    suffix: str, other: str, files: dict[str, bytes], refused: Callable[..., str]
) -> None:
    if suffix == other:
        suffix, other = ".pt", ".zip"
        with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("archive/data.pkl", bytes(10**6))
        files = {other: Path("a.zip").read_bytes()}
    Path(f"a{suffix}").write_bytes(files[other])
    assert f"a{suffix}" in refused(f"a{suffix}", "b.tar", "--network", NAME)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    suffix: str, protocol: int, folder: Path, refused: Callable[..., str]
) -> None:
    content = pickle.dumps({"fc1.weight": Payload(folder / "ran")}, protocol)
    Path(f"a{suffix}").write_bytes(content)
    refused(f"a{suffix}", "b.safetensors", "--network", NAME)
    with zipfile.ZipFile("z.pt", "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3")
    refused("z.pt", "b.safetensors", "--network", NAME)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("suffix", [".tar", ".pdparams", ".pt"])
def test_a_file_of_a_terabyte_is_refused_before_it_is_read(
    suffix: str, folder: Path, refused: Callable[..., str]
) -> None:
    with (folder / "x.bin").open("wb") as file:
        file.truncate(2**40)
    (folder / "x.bin").rename(f"{folder}/../huge{suffix}")
    try:
        message = refused(f"../huge{suffix}", "b.safetensors", "--network", NAME)
    finally:
        (folder / f"../huge{suffix}").unlink()
    assert "1,099,511,627,776 bytes" in message


def test_arrays_that_share_their_numbers_are_refused(theirs: tuple[str, Path], refused: Callable[..., str]) -> None:
    suffix, place = theirs
    Path(f"a{suffix}").write_bytes((place / f"shared{suffix}").read_bytes())
    assert "its arrays share their numbers" in refused(f"a{suffix}", "b.tar", "--network", NAME)


def test_a_zip_that_unpacks_to_more_than_it_is_is_refused(
    folder: Path, workers: dict[str, Worker], refused: Callable[..., str]
) -> None:
    zeros = {name: array * 0 for name, array in weights.initialise(NETWORK, 0).items()}
    workers["torch"].write_file(folder / "a.pt", NETWORK, zeros, "float32")
    with zipfile.ZipFile("a.pt") as plain, zipfile.ZipFile("b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    assert "a zip file whose members are larger than itself" in refused("b.pt", "c.tar", "--network", NAME)


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no such file": (("nothing.tar", "b.pt"), "nothing.tar is no file"),
    "a run without a checkpoint": (("empty", "b.pt"), "empty/last.safetensors is no file"),
    "an unknown source": (("a.npz", "b.pt"), "a.npz ends in .npz: choose one of .safetensors, .tar"),
    "an unknown destination": (("a.tar", "b"), "b ends in nothing"),
    "the source itself": (("a.tar", "empty/../a.tar", "--network", NAME), "is the source itself"),
    "an unknown network": (("a.tar", "b.pt", "--network", "vgg99"), "unknown network 'vgg99'"),
    "another network": (("a.tar", "b.pt", "--network", "vgg_mini"), "no parameter of network vgg_mini"),
    "another width": (("a.tar", "b.pt", "--network", "vgg16_bn_drop"), "has shape"),
    "none of the known": (("a.tar", "b.pt"), "it is of none of the known networks"),
    "not the network it names": (("a.safetensors", "b.pt", "--network", "vgg_mini"), f"holds network {NAME}, not vgg_mini"),
    "a folder as destination": (("a.tar", "empty.pt", "--network", NAME), "empty.pt: Is a directory"),
    "a destination below a file": (("a.tar", "a.tar/b.tar", "--network", NAME), "cannot write a.tar/b.tar"),
    "float64 for v2": (("wide.safetensors", "b.tar"), "float64 numbers that float32 would round"),
    "two kinds of floats": (("mixed.safetensors", "b.pt"), "a .pt file needs all weights in float32 or all in float64"),
    "only one name": (("a.tar",), "the following arguments are required: DST"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_usage_is_refused(what: str, files: dict[str, bytes], refused: Callable[..., str]) -> None:
    arguments, message = BAD[what]
    Path("a.tar").write_bytes(files[".tar"])
    Path("a.npz").write_bytes(b"")
    Path("a.safetensors").write_bytes(files[".safetensors"])
    weights.save(Path("wide.safetensors"), NETWORK, special("float64"))
    weights.save(Path("mixed.safetensors"), NETWORK, special() | {"fc3.bias": special("float64")["fc3.bias"]})
    Path("empty").mkdir()
    Path("empty.pt").mkdir()
    assert message in refused(*arguments)


def test_weights_that_fit_two_known_networks_are_refused(
    files: dict[str, bytes], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "NETWORKS", {"one": NETWORK, "two": NETWORK})
    Path("a.tar").write_bytes(files[".tar"])
    assert f"it fits {NAME} and {NAME} alike; name its network with --network" in refused("a.tar", "b.pt")


@pytest.mark.parametrize("framework", ["paddle", "torch"])
def test_a_framework_that_is_not_installed_is_bad_input_that_says_how_to_get_it(
    framework: str, folder: Path, files: dict[str, bytes]
) -> None:
    missing = f"raise ModuleNotFoundError('no', name={framework!r})"
    (folder / "none" / framework).mkdir(parents=True)
    (folder / "none" / framework / "__init__.py").write_text(missing)
    (folder / "a.tar").write_bytes(files[".tar"])
    destination = folder / {"paddle": "b.pdparams", "torch": "b.pt"}[framework]
    command = [sys.executable, "scripts/convert_weights.py", str(folder / "a.tar"), str(destination), "--network", NAME]
    environment = os.environ | {"PYTHONPATH": str(folder / "none")}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.returncode == 2, ended.stderr
    assert "is not installed here: pip install" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not destination.exists()
